#include "core/file.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace deeptitan {

std::string format_bytes(uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  static constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

void fail_file(std::string_view what, const std::filesystem::path& path, int error_number) {
  const std::string reason = std::generic_category().message(error_number);
  if (error_number == EFBIG) {
    fail(
        "cannot {} {}: {}: a limit of the shell (ulimit -f) or of the file system stands against it; raise it, or "
        "choose "
        "a directory on another disk",
        what, path.string(), reason);
  }
  if (error_number == EMFILE || error_number == ENFILE) {
    fail("cannot {} {}: {}; raise the limit (ulimit -n)", what, path.string(), reason);
  }
  if (error_number == EDQUOT) {
    fail("cannot {} {}: {}; free some of your quota or choose a directory on another disk", what, path.string(),
         reason);
  }
  if (error_number == EROFS || error_number == EACCES || error_number == EPERM) {
    fail("cannot {} {}: {}; choose a place that you may write to and read from", what, path.string(), reason);
  }
  if (error_number == ENOSPC) {
    std::error_code ignored;
    const auto space = std::filesystem::space(path.has_parent_path() ? path.parent_path() : ".", ignored);
    constexpr uintmax_t kEnoughForASmallFile = 64 << 20;
    if (!ignored && space.available > kEnoughForASmallFile) {
      fail(
          "cannot {} {}: {}, though {} are free: a quota or the number of files (df -i) stands against it; choose a "
          "directory on another disk",
          what, path.string(), reason, format_bytes(space.available));
    }
    const std::string left = ignored ? "" : fmt::format(" ({} free)", format_bytes(space.available));
    fail("cannot {} {}: {}{}; make room or choose a directory on another disk", what, path.string(), reason, left);
  }
  fail("cannot {} {}: {}", what, path.string(), reason);
}

File::File(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

File::File(File&& other) noexcept : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

namespace {

/// Opens without waiting for a pipe's writer, and says what was opened.
int open_to_read(const std::filesystem::path& path, mode_t& mode) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) fail_file("open", path, errno);
  struct stat status;
  if (::fstat(descriptor, &status) != 0) {
    const int error_number = errno;
    ::close(descriptor);
    fail_file("open", path, error_number);
  }
  mode = status.st_mode;
  return descriptor;
}

/// A descriptor that is closed when it goes out of scope.
struct PipeEnd {
  int descriptor;
  ~PipeEnd() { ::close(descriptor); }
};

[[noreturn]] void fail_not_regular(const std::filesystem::path& path, mode_t mode) {
  if (S_ISDIR(mode)) fail_file("open", path, EISDIR);
  fail("cannot read {}: it is a {}, expected a regular file", path.string(),
       S_ISFIFO(mode)   ? "pipe"
       : S_ISSOCK(mode) ? "socket"
                        : "device");
}

[[noreturn]] void fail_too_large(const std::filesystem::path& path, uint64_t bytes, size_t max_bytes) {
  fail("cannot read {}: it has {}, and a file of this kind {} at most", path.string(),
       bytes > max_bytes ? format_bytes(bytes) : "more", format_bytes(max_bytes));
}

}  // namespace

File File::open(const std::filesystem::path& path) {
  mode_t mode = 0;
  File file(path, open_to_read(path, mode));
  if (!S_ISREG(mode)) fail_not_regular(path, mode);
  return file;
}

File File::create(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) fail_file("create", path, errno);
  return File(path, descriptor);
}

File File::open_or_create(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) fail_file("open", path, errno);
  return File(path, descriptor);
}

uint64_t File::size() const {
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) fail_file("find the size of", path_, errno);
  return static_cast<uint64_t>(status.st_size);
}

void File::read_at(void* destination, size_t bytes, uint64_t offset) const {
  auto* to = static_cast<char*>(destination);
  while (bytes > 0) {
    const ssize_t count = ::pread(descriptor_, to, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_file("read", path_, errno);
    DT_CHECK(count > 0, "{} ends at byte {}, {} bytes before what was to be read", path_.string(), offset, bytes);
    to += count;
    bytes -= static_cast<size_t>(count);
    offset += static_cast<uint64_t>(count);
  }
}

void File::write_at(const void* source, size_t bytes, uint64_t offset) {
  const auto* from = static_cast<const char*>(source);
  while (bytes > 0) {
    const ssize_t count = ::pwrite(descriptor_, from, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_file("write", path_, errno);
    from += count;
    bytes -= static_cast<size_t>(count);
    offset += static_cast<uint64_t>(count);
  }
}

void File::resize(uint64_t bytes) {
  if (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) fail_file("resize", path_, errno);
}

void File::reserve(uint64_t bytes) {
  if (bytes == 0) return;
  int result;
  do {
    result = ::fallocate(descriptor_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    fail_file(fmt::format("reserve {} for", format_bytes(bytes)), path_, errno);
  }
}

void File::sync() {
  if (::fsync(descriptor_) != 0) fail_file("sync", path_, errno);
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_file("open", directory, errno);
  const int result = ::fsync(descriptor);
  const int error_number = errno;
  ::close(descriptor);
  // Some network file systems cannot sync a directory and say EINVAL; there is nothing more to do on them.
  if (result != 0 && error_number != EINVAL) fail_file("sync", directory, error_number);
}

std::string read_file(const std::filesystem::path& path, size_t max_bytes) {
  const File file = File::open(path);
  const uint64_t bytes = file.size();
  if (bytes > max_bytes) fail_too_large(path, bytes, max_bytes);
  std::string text(bytes, '\0');
  size_t length = 0;
  while (length < text.size()) {
    const ssize_t count = ::read(file.descriptor(), text.data() + length, text.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_file("read", path, errno);
    if (count == 0) break;  // cut since it was opened
    length += static_cast<size_t>(count);
  }
  text.resize(length);
  return text;
}

std::string read_file_or_pipe(const std::filesystem::path& path, size_t max_bytes) {
  mode_t mode = 0;
  const PipeEnd pipe{open_to_read(path, mode)};
  if (S_ISREG(mode)) return read_file(path, max_bytes);
  if (!S_ISFIFO(mode)) fail_not_regular(path, mode);
  std::string text;
  std::string piece(size_t{1} << 16, '\0');
  while (true) {
    const ssize_t count = ::read(pipe.descriptor, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {  // a writer has it open
      pollfd wanted{pipe.descriptor, POLLIN, 0};
      ::poll(&wanted, 1, -1);
      continue;
    }
    if (count < 0) fail_file("read", path, errno);
    if (count == 0) break;
    if (text.size() + static_cast<size_t>(count) > max_bytes) fail_too_large(path, 0, max_bytes);
    text.append(piece, 0, static_cast<size_t>(count));
  }
  DT_CHECK(!text.empty(), "cannot read {}: it is a pipe that nobody writes into", path.string());
  return text;
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path target = fs::canonical(path, error);  // what a link points to
  if (error) target = path;
  struct stat status;
  const bool exists = ::stat(target.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) fail_file("write", path, EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    File file = File::create(target);
    for (size_t at = 0; at < text.size();) {
      const ssize_t count = ::write(file.descriptor(), text.data() + at, text.size() - at);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_file("write", path, errno);
      at += static_cast<size_t>(count);
    }
    return;
  }
  if (exists && ::access(target.c_str(), W_OK) != 0) fail_file("write", path, errno);
  static std::atomic<int> counter = 0;
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  const fs::path temporary =
      folder / fmt::format(".{}.{}-{}.tmp", target.filename().string().substr(0, 200), ::getpid(), counter++);
  try {
    File file = File::create(temporary);
    if (exists && ::fchmod(file.descriptor(), status.st_mode & 07777) != 0)
      fail_file("set the mode of", temporary, errno);
    file.write_at(text.data(), text.size(), 0);
    file.sync();
    if (::rename(temporary.c_str(), target.c_str()) != 0) fail_file("replace", path, errno);
  } catch (const Error& failure) {
    fs::remove(temporary, error);
    std::string message = failure.what();  // the user knows the file by its own name
    if (const size_t at = message.find(temporary.string()); at != std::string::npos) {
      message.replace(at, temporary.string().size(), path.string());
    }
    throw Error(message, failure.kind());
  }
  sync_directory(folder);
}

}  // namespace deeptitan

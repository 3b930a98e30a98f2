#include "core/folder_lock.h"

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"

namespace deeptitan {
namespace {

bool same_file(int descriptor, const std::filesystem::path& path) {
  struct stat opened, named;
  return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

std::string holder_line() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return fmt::format("process {} on {}\n", ::getpid(), host.data());
}

/// What the holder has written into the file; it may be just about to.
std::string read_holder(int descriptor) {
  std::array<char, 400> text{};
  const ssize_t count = ::pread(descriptor, text.data(), text.size() - 1, 0);
  std::string line(text.data(), count > 0 ? static_cast<size_t>(count) : 0);
  line.resize(std::min(line.find('\n'), line.size()));
  return line.empty() ? "another process" : line;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& path, const std::string& what) : path_(path) {
  constexpr int kTries = 100;  // another run may be just about to remove the file
  for (int i = 0; i < kTries; ++i) {
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor_ < 0) fail_file("open", path, errno);
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error_number = errno;
      if (error_number == EWOULDBLOCK) {
        const std::string holder = read_holder(descriptor_);
        ::close(std::exchange(descriptor_, -1));
        fail("{} is in use by {}; wait for it, or end it, or choose another folder", what, holder);
      }
      log_warning(fmt::format("{} cannot be locked ({}): see that no second run uses {}", path.string(),
                              std::generic_category().message(error_number), what));
    }
    if (same_file(descriptor_, path)) {
      const std::string line = holder_line();
      const bool written = ::ftruncate(descriptor_, 0) == 0 &&
                           ::pwrite(descriptor_, line.data(), line.size(), 0) == static_cast<ssize_t>(line.size());
      if (!written) {
        const int error_number = errno;
        ::unlink(path.c_str());
        ::close(std::exchange(descriptor_, -1));
        fail_file("write", path, error_number);
      }
      return;
    }
    ::close(std::exchange(descriptor_, -1));
  }
  fail("{} is removed again and again by others; choose another folder", path.string());
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FolderLock::~FolderLock() {
  if (descriptor_ < 0) return;
  if (in_place()) ::unlink(path_.c_str());
  ::close(descriptor_);
}

bool FolderLock::in_place() const {
  return same_file(descriptor_, path_);
}

}  // namespace deeptitan

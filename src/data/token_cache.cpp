#include "data/token_cache.h"

#include <atomic>
#include <cerrno>
#include <ctime>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kUnfinished = ".tmp";
constexpr size_t kHexDigits = 32;

// "HASH.tokens.PID.tmp" or "HASH.tokens.PID-N.tmp"
bool is_unfinished_name(const std::string& name) {
  const size_t mark = name.find(".tokens.");
  if (mark != kHexDigits || !name.ends_with(kUnfinished)) return false;
  const size_t begin = mark + std::string_view(".tokens.").size();
  if (begin + kUnfinished.size() >= name.size()) return false;
  return name.substr(begin, name.size() - kUnfinished.size() - begin).find_first_not_of("0123456789-") ==
         std::string::npos;
}

std::string digest_text(std::string_view text) {
  Digest digest;
  digest.add(text.data(), text.size());
  return digest.hex();
}

}  // namespace

UnfinishedFile::UnfinishedFile(const fs::path& target) {
  static std::atomic<int> counter = 0;
  for (int tries = 0; tries < 100; ++tries) {
    path_ = target;
    path_ += fmt::format(".{}-{}{}", ::getpid(), counter++, kUnfinished);
    lock_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock_ < 0) fail_file("create", path_, errno);
    ::flock(lock_, LOCK_EX | LOCK_NB);  // where it cannot be, nothing is tidied up either
    if (fs::exists(path_)) return;
    ::close(lock_);  // somebody who tidied up was between the two calls
  }
  fail("{} is removed again and again by others; choose another data.cache_folder", path_.string());
}

UnfinishedFile::~UnfinishedFile() {
  std::error_code ignored;
  fs::remove(path_, ignored);
  ::close(lock_);
}

void remove_unfinished_files(const fs::path& folder) {
  std::vector<fs::path> leftovers;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (is_unfinished_name(entry.path().filename().string())) leftovers.push_back(entry.path());
  }
  for (const fs::path& leftover : leftovers) {
    const int descriptor = ::open(leftover.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) fs::remove(leftover, error);
    ::close(descriptor);
  }
}

KnownHash::KnownHash(const fs::path& cache_folder, const std::vector<fs::path>& files, ContentHash options) {
  const std::time_t now = std::time(nullptr);
  for (const fs::path& file : files) {
    struct stat status = {};
    if (::stat(file.c_str(), &status) != 0) fail_file("read", file, errno);
    settled_ = settled_ && status.st_mtim.tv_sec + 2 < now && status.st_ctim.tv_sec + 2 < now;
    options.add(fs::absolute(file).lexically_normal().string());
    options.add(fmt::format("{} {} {}.{} {}.{}", status.st_ino, status.st_size, status.st_mtim.tv_sec,
                            status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec));
  }
  note_ = cache_folder / fmt::format("{}.text", options.hex());
  if (!settled_ || !fs::exists(note_)) return;
  // The hash, a blank, and the digest of both this file's name and the hash.
  const std::string text = read_file(note_);
  if (text.size() != 2 * kHexDigits + 2) return;
  const std::string hash = text.substr(0, kHexDigits);
  if (text == hash + " " + digest_text(note_.filename().string() + hash) + "\n") value_ = hash;
}

void KnownHash::remember(const std::string& value) {
  value_ = value;
  if (settled_) write_file(note_, value + " " + digest_text(note_.filename().string() + value) + "\n");
}

}  // namespace deeptitan

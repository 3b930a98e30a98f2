#include "hub/cache_layout.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

std::string directory_name(const std::string& repository) {
  const size_t slash = repository.find('/');
  return "models--" + repository.substr(0, slash) + "--" + repository.substr(slash + 1);
}

void create_parents(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) fail_file("create", path.parent_path(), error.value());
}

}  // namespace

CacheLayout::CacheLayout(const fs::path& cache_directory, const std::string& repository)
    : repository_(cache_directory / directory_name(repository)),
      locks_(cache_directory / ".locks" / directory_name(repository)) {}

FilePlaces CacheLayout::places_of(const RemoteFile& file) const {
  const fs::path blobs = repository_ / "blobs";
  return {blobs / (file.hash + ".incomplete"), blobs / file.hash, locks_ / (file.hash + ".lock")};
}

fs::path CacheLayout::snapshot(const std::string& commit) const {
  return repository_ / "snapshots" / commit;
}

fs::path CacheLayout::ref(const std::string& revision) const {
  return repository_ / "refs" / revision;
}

void CacheLayout::link(const std::string& commit, const RemoteFile& file) const {
  const fs::path link = snapshot(commit) / file.name;
  const fs::path target = (repository_ / "blobs" / file.hash).lexically_relative(link.parent_path());
  std::error_code error;
  if (fs::is_symlink(link, error) && fs::read_symlink(link, error) == target) return;
  create_parents(link);
  // A link under another name is renamed over whatever is there, so that the file is never missing.
  const fs::path fresh = link.string() + fmt::format(".link-{}", ::getpid());
  fs::remove(fresh, error);
  fs::create_symlink(target, fresh, error);
  if (error) fail_file("link", link, error.value());
  fs::rename(fresh, link, error);
  if (error) fail_file("link", link, error.value());
}

void CacheLayout::write_ref(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const fs::path ref = this->ref(revision);
  create_parents(ref);
  const fs::path fresh = ref.string() + fmt::format(".new-{}", ::getpid());
  write_file(fresh, commit);
  std::error_code error;
  fs::rename(fresh, ref, error);
  if (error) fail_file("write", ref, error.value());
}

FilePlaces places_in_directory(const fs::path& directory, const RemoteFile& file) {
  const fs::path under_way = directory / ".cache" / "huggingface" / "download" / file.name;
  return {under_way.string() + "." + file.hash + ".incomplete", directory / file.name, under_way.string() + ".lock"};
}

FileLock::FileLock(const fs::path& path, const std::string& what) {
  create_parents(path);
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_file("open", path, errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    ::close(descriptor_);
    if (reason != EWOULDBLOCK) fail_file("lock", path, reason);
    fail("{} is being downloaded by another process; wait until it is done, or stop it", what);
  }
}

FileLock::~FileLock() {
  ::close(descriptor_);
}

}  // namespace deeptitan

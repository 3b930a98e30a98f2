#include "checkpoint/atomic_directory.h"

#include <atomic>
#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr int kMostTries = 1000;

// ".NAME.incomplete-PID-N" is being written or removed, ".NAME.replaced-PID-N" waits for its replacement.
constexpr std::string_view kIncomplete = ".incomplete-";
constexpr std::string_view kReplaced = ".replaced-";

fs::path absolute_target(const fs::path& target) {
  fs::path path = fs::absolute(target).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

fs::path sibling(const fs::path& target, std::string_view mark) {
  static std::atomic<int> counter = 0;
  return target.parent_path() / fmt::format(".{}{}{}-{}", target.filename().string(), mark, ::getpid(), counter++);
}

/// The NAME of ".NAME<mark>...", empty if the file name is no such.
std::string marked_name(const std::string& file_name, std::string_view mark) {
  const size_t position = file_name.rfind(mark);
  if (file_name.empty() || file_name[0] != '.' || position == std::string::npos || position < 2) return "";
  if (file_name.find_first_not_of("0123456789-", position + mark.size()) != std::string::npos) return "";
  return file_name.substr(1, position - 1);
}

enum class LockOutcome {
  kLocked,
  kBusy,         // a living process holds it, or it has gone
  kUnsupported,  // the file system cannot lock directories (NFS)
  kUnopened,     // it is there and cannot be opened: no descriptors left, no permission; errno says why
};

/// Opens and locks the directory; the descriptor holds the lock and is -1 without one.
LockOutcome lock_directory(const fs::path& directory, int& descriptor) {
  descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return errno == ENOENT ? LockOutcome::kBusy : LockOutcome::kUnopened;
  LockOutcome outcome = LockOutcome::kLocked;
  struct stat opened, named;
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    outcome = errno == EWOULDBLOCK ? LockOutcome::kBusy : LockOutcome::kUnsupported;
  } else if (::fstat(descriptor, &opened) != 0 || ::stat(directory.c_str(), &named) != 0 ||
             opened.st_ino != named.st_ino || opened.st_dev != named.st_dev) {
    outcome = LockOutcome::kBusy;  // somebody tidying up removed it between its creation and the lock
  }
  if (outcome != LockOutcome::kLocked) {
    ::close(descriptor);
    descriptor = -1;
  }
  return outcome;
}

/// What cannot be removed now is found again by recover_directories.
void remove_leftover(const fs::path& directory) {
  std::error_code ignored;
  fs::remove_all(directory, ignored);
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    fail_file(fmt::format("rename {} to", from.string()), to, errno);
  }
}

void sync_tree(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory()) {
      sync_tree(entry.path());
    } else if (entry.is_regular_file()) {
      File::open(entry.path()).sync();
    }
  }
  sync_directory(directory);
}

}  // namespace

void recover_directories(const fs::path& parent) {
  std::error_code error;
  std::vector<fs::path> incomplete, replaced;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename().string();
    if (!marked_name(name, kIncomplete).empty()) incomplete.push_back(entry.path());
    if (!marked_name(name, kReplaced).empty()) replaced.push_back(entry.path());
  }
  if (error) return;
  for (const auto& leftovers : {replaced, incomplete}) {
    for (const fs::path& leftover : leftovers) {
      int lock = -1;
      const LockOutcome outcome = lock_directory(leftover, lock);
      const std::string name = marked_name(leftover.filename().string(), kReplaced);
      const bool dead = outcome == LockOutcome::kLocked || outcome == LockOutcome::kUnsupported;
      if (dead && !name.empty() && !fs::exists(parent / name)) {
        rename_path(leftover, parent / name);
      } else if (outcome == LockOutcome::kLocked) {
        remove_leftover(leftover);  // without locks nobody can tell it from what a living process writes: it stays
      }
      if (lock >= 0) ::close(lock);
    }
  }
}

void check_removable(const fs::path& directory) {
  if (const std::optional<fs::path> foreign = foreign_entry(directory)) {
    fail("{} would be removed, and deeptitan did not write it, or it was changed since; move it away",
         foreign->string());
  }
}

fs::path set_aside(const fs::path& directory) {
  const fs::path target = absolute_target(directory);
  for (int i = 1; i <= kMostTries; ++i) {
    fs::path aside = target.parent_path() / fmt::format("set-aside-{}-{}", i, target.filename().string());
    if (::renameat2(AT_FDCWD, target.c_str(), AT_FDCWD, aside.c_str(), RENAME_NOREPLACE) == 0) return aside;
    const bool unsupported = errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP;
    if (unsupported && !fs::exists(fs::symlink_status(aside))) {
      rename_path(target, aside);
      return aside;
    }
    if (!unsupported && errno != EEXIST) fail_file(fmt::format("rename {} to", target.string()), aside, errno);
  }
  fail("{} was set aside {} times already; move those directories away", target.string(), kMostTries);
}

void remove_directory(const fs::path& directory) {
  const fs::path target = absolute_target(directory);
  check_removable(target);
  const fs::path leaving = sibling(target, kIncomplete);
  rename_path(target, leaving);
  sync_directory(target.parent_path());
  std::error_code error;
  fs::remove_all(leaving, error);
  if (error) fail_file("remove", leaving, error.value());
}

AtomicDirectory::AtomicDirectory(const fs::path& target, AtomicDirectoryOptions options)
    : target_(absolute_target(target)), options_(std::move(options)) {
  std::error_code error;
  fs::create_directories(target_.parent_path(), error);
  if (error) fail_file("create", target_.parent_path(), error.value());
  recover_directories(target_.parent_path());
  DT_CHECK(!fs::exists(target_) || fs::is_directory(target_), "{} is a file, expected a directory or nothing",
           target_.string());
  check_removable(target_);
  for (int i = 0; i < kMostTries; ++i) {
    temporary_ = sibling(target_, kIncomplete);
    if (::mkdir(temporary_.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      fail_file("create", temporary_, errno);
    }
    const LockOutcome outcome = lock_directory(temporary_, lock_);
    if (outcome == LockOutcome::kUnopened) {
      const int error_number = errno;
      ::rmdir(temporary_.c_str());
      fail_file("open", temporary_, error_number);
    }
    if (outcome != LockOutcome::kBusy) return;
  }
  fail("{} tries to make a folder beside {} came to nothing; does another program remove them?", kMostTries,
       target_.string());
}

AtomicDirectory::~AtomicDirectory() {
  if (!committed_) remove_leftover(temporary_);
  if (lock_ >= 0) ::close(lock_);
}

void AtomicDirectory::step_done(CommitStep step) const {
  if (options_.after_step) options_.after_step(step);
}

void AtomicDirectory::replace_target() {
  if (options_.exchange) {
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
      sync_directory(target_.parent_path());
      step_done(CommitStep::kInPlace);
      remove_leftover(temporary_);  // the name now holds the old directory
      return;
    }
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) fail_file("replace", target_, errno);
  }
  const fs::path aside = sibling(target_, kReplaced);
  int old_lock = -1;
  lock_directory(target_, old_lock);  // so that nobody puts it back before the new one is in place
  rename_path(target_, aside);
  sync_directory(target_.parent_path());
  step_done(CommitStep::kMovedAside);
  rename_path(temporary_, target_);
  sync_directory(target_.parent_path());
  step_done(CommitStep::kInPlace);
  remove_leftover(aside);
  if (old_lock >= 0) ::close(old_lock);
}

void AtomicDirectory::commit() {
  DT_CHECK(!committed_, "{} was committed already", target_.string());
  sync_tree(temporary_);
  step_done(CommitStep::kSynced);
  check_removable(target_);
  if (fs::exists(target_)) {
    replace_target();
  } else {
    rename_path(temporary_, target_);
    sync_directory(target_.parent_path());
    step_done(CommitStep::kInPlace);
  }
  committed_ = true;
}

}  // namespace deeptitan

#pragma once

#include <filesystem>
#include <functional>

namespace deeptitan {

/// Where commit() has got to; see AtomicDirectoryOptions.
enum class CommitStep {
  kSynced,      // every byte of the new directory is on the device, nothing has moved
  kMovedAside,  // only without exchange: the old directory has left its place, the new one has not taken it
  kInPlace,     // the new directory is in place, what it replaced is not yet removed
};

struct AtomicDirectoryOptions {
  /// Swap with an existing directory in one step (renameat2 RENAME_EXCHANGE). Where the file system cannot, or if
  /// false, two renames are used; between them the place is empty, and recover_directories puts the old one back.
  bool exchange = true;
  /// Called during commit() after each step, so that tests can end the process there.
  std::function<void(CommitStep)> after_step;
};

/// A directory that appears in its place whole or not at all.
///
/// Files are written into path(), a hidden sibling of the target; commit() syncs them and renames it into place,
/// replacing what is there where that is a directory of this program (check_removable). Without commit() (an exception,
/// a full disk) the destructor removes it and the target stays as it was. After a kill or a power cut the target is the
/// old one or the new one, never a mixture; the leftover is removed by the next AtomicDirectory or recover_directories
/// in the same parent.
class AtomicDirectory {
 public:
  /// Creates the temporary directory, and the target's parents if they are missing. Throws Error if the target exists
  /// and is not a directory of this program's, or nothing can be created and opened there.
  explicit AtomicDirectory(const std::filesystem::path& target, AtomicDirectoryOptions options = {});
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write.
  const std::filesystem::path& path() const { return temporary_; }
  /// Returns once the directory is in place and on the device.
  void commit();

 private:
  void step_done(CommitStep step) const;
  void replace_target();

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  AtomicDirectoryOptions options_;
  int lock_ = -1;  // descriptor of temporary_, locked while this object lives: a leftover is one that nobody locks
  bool committed_ = false;
};

/// Removes what killed runs have left in `parent`, and puts back directories that were on their way out when their
/// replacement never came. What a living process writes is left alone, and so is every leftover on a file system that
/// cannot lock directories (NFS), where the two look alike. Does nothing if `parent` does not exist.
void recover_directories(const std::filesystem::path& parent);

/// Throws Error, naming the first such file, if the directory holds anything that its manifest does not list as it is:
/// what the program did not write is never removed.
void check_removable(const std::filesystem::path& directory);

/// Renames a directory that may not be removed to "set-aside-N-NAME" beside it, and returns that.
std::filesystem::path set_aside(const std::filesystem::path& directory);

/// Removes a directory so that it disappears from its place in one step, whatever happens during the removal. Throws
/// Error as check_removable does.
void remove_directory(const std::filesystem::path& directory);

}  // namespace deeptitan

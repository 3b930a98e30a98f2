#pragma once

#include <filesystem>

namespace deeptitan {

/// A file that one process holds. The kernel lets go of it when the process ends, however it ends, so that a lock is
/// never left behind; the file says who holds it.
class FolderLock {
 public:
  /// Creates the file if it is missing and locks it (flock). Throws Error "<what> is in use by process <pid> on <host>"
  /// where another holds it. On a file system that cannot lock, warns and goes on without.
  FolderLock(const std::filesystem::path& path, const std::string& what);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  /// Removes the file and lets go.
  ~FolderLock();

  /// Whether the file that is locked still stands in its place: false where the folder was removed or replaced.
  bool in_place() const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace deeptitan

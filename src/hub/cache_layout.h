#pragma once

#include <filesystem>
#include <string>

#include "hub/repository_listing.h"

namespace deeptitan {

/// Where a file's bytes go while they come and when they are whole.
struct FilePlaces {
  std::filesystem::path incomplete;  // grows; a later run resumes from its size
  std::filesystem::path complete;    // appears by renaming `incomplete`
  std::filesystem::path lock;        // locked (flock) by the process that writes `incomplete`
};

/// The cache that Hugging Face's Python tools share (huggingface_hub, "Understand caching"):
///   CACHE/models--OWNER--NAME/blobs/HASH, refs/REVISION (holds the commit), snapshots/COMMIT/FILE (a relative symbolic
///   link to the blob), and CACHE/.locks/models--OWNER--NAME/HASH.lock.
class CacheLayout {
 public:
  CacheLayout(const std::filesystem::path& cache_directory, const std::string& repository);

  FilePlaces places_of(const RemoteFile& file) const;
  /// snapshots/COMMIT
  std::filesystem::path snapshot(const std::string& commit) const;
  /// refs/REVISION
  std::filesystem::path ref(const std::string& revision) const;
  /// Makes snapshots/COMMIT/FILE a link to the file's blob.
  void link(const std::string& commit, const RemoteFile& file) const;
  /// Writes refs/REVISION, unless the revision is the commit itself.
  void write_ref(const std::string& revision, const std::string& commit) const;

 private:
  std::filesystem::path repository_;
  std::filesystem::path locks_;
};

/// The places of a file that goes to DIRECTORY/FILE; what is under way lies in DIRECTORY/.cache/huggingface/download,
/// as the Python tools have it.
FilePlaces places_in_directory(const std::filesystem::path& directory, const RemoteFile& file);

/// A lock on a file that other processes (Python's filelock too) respect; released when it goes out of scope.
class FileLock {
 public:
  /// Throws Error if another process holds it: `what` is being downloaded by somebody else.
  FileLock(const std::filesystem::path& path, const std::string& what);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace deeptitan

#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/content_hash.h"

namespace deeptitan {

/// A file that is being written beside `target`, and removed again with this object where it was not renamed to it. It
/// is locked: what a killed process leaves is known by nobody's holding it.
class UnfinishedFile {
 public:
  explicit UnfinishedFile(const std::filesystem::path& target);
  ~UnfinishedFile();
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int lock_ = -1;
};

/// Removes what killed processes have left in the folder.
void remove_unfinished_files(const std::filesystem::path& folder);

/// The hash of a text's content, remembered in the cache folder under the names, sizes and times of its files, so that
/// a text is read again only where one of these has changed. A file changed within the last two seconds is not
/// remembered: its time could stay the same under another change.
class KnownHash {
 public:
  /// `options` is what the hash depends on beside the files.
  KnownHash(const std::filesystem::path& cache_folder, const std::vector<std::filesystem::path>& files,
            ContentHash options);

  const std::optional<std::string>& value() const { return value_; }
  void remember(const std::string& value);

 private:
  std::filesystem::path note_;
  bool settled_ = true;
  std::optional<std::string> value_;
};

}  // namespace deeptitan

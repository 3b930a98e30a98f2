#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/http.h"
#include "hub/hub_settings.h"

namespace deeptitan {

/// How far one file of a download is.
struct FileProgress {
  std::string name;
  uint64_t received = 0;  // bytes on the disk, those of earlier runs included
  uint64_t size = 0;
  uint64_t resumed_from = 0;  // bytes that were there when this run began
  bool started = false;
  bool done = false;
};

struct DownloadOptions {
  std::string revision = "main";     // branch, tag or commit
  std::vector<std::string> include;  // glob patterns; empty: every file
  std::filesystem::path directory;   // plain files go here; empty: the shared cache
  int parallel = 8;                  // files at a time
  HttpPatience patience;
  /// Called about ten times a second and when a file begins or ends, with all files in the order of the repository.
  std::function<void(const std::vector<FileProgress>&)> progress;
};

struct DownloadSummary {
  std::filesystem::path directory;  // where the files are: the snapshot in the cache, or options.directory
  std::string commit;
  int64_t files = 0;
  uint64_t bytes = 0;          // of all files
  uint64_t fetched_bytes = 0;  // that came over the network
};

/// Downloads `repository` (OWNER/NAME) at a revision. Files come in parallel; each is checked for size and hash before
/// it gets its name. What was there already is not fetched again, and what an earlier run left unfinished is resumed.
/// Throws Error when the hub refuses (401, 403, 404), the connection stays broken, the disk is full or lacks room, or
/// bytes do not have the hash that the hub announced; everything received until then is kept for the next run.
DownloadSummary download_model(const std::string& repository, const HubSettings& settings,
                               const DownloadOptions& options);

}  // namespace deeptitan

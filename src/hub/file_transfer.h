// One file on its way from the hub; for the .cpp files of this folder only.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "core/file.h"
#include "hub/blob_hash.h"
#include "hub/cache_layout.h"
#include "hub/curl_handle.h"
#include "hub/repository_listing.h"

namespace deeptitan {

/// Fetches one file into its place, over as many connections as it takes:
///   inspect() -> start() -> the caller runs the handle -> end_attempt() -> done(), or start() again after retry_at().
/// Bytes go to places.incomplete and are hashed as they come; a later attempt, or a later run, goes on where the file
/// ends. The file gets its final name only when size and hash are right.
class FileTransfer {
 public:
  struct Source {
    std::string url;
    std::string repository;
    std::string commit;
    HubSettings settings;
    HttpPatience patience;
  };

  FileTransfer(RemoteFile file, FilePlaces places, const Source& source);

  /// Looks at what is on the disk: afterwards done(), or received() bytes are there to go on from.
  void inspect();
  /// A handle for the next attempt, to be run by the caller (curl_multi); valid until end_attempt. nullptr if what is
  /// on the disk turned out to be the whole file. Throws Error if another process is fetching the file.
  CURL* start();
  /// To be called when the attempt is over. Throws Error if no further attempt can help.
  void end_attempt(CURLcode code);

  bool done() const { return done_; }
  uint64_t received() const { return received_; }
  uint64_t fetched() const { return fetched_; }  // over the network, by this object
  const RemoteFile& file() const { return file_; }
  std::chrono::steady_clock::time_point retry_at() const { return retry_at_; }

 private:
  static size_t on_bytes(char* data, size_t size, size_t count, void* context);
  size_t receive(const char* data, size_t bytes);
  void begin_body(long status);
  void open_output();
  void restart_from(uint64_t bytes);
  bool verified_in_place() const;
  void complete();
  void give_up_or_retry(const std::string& problem, bool too_slow = false);

  RemoteFile file_;
  FilePlaces places_;
  const Source& source_;
  std::unique_ptr<FileLock> lock_;
  std::optional<File> output_;
  std::optional<BlobHash> hash_;
  CurlHandle handle_;
  HttpHeaders headers_;
  std::string range_;
  std::exception_ptr error_;  // thrown in a callback, where libcurl's C frames must not be unwound
  std::chrono::steady_clock::time_point retry_at_{};
  uint64_t received_ = 0;
  uint64_t fetched_ = 0;
  uint64_t furthest_ = 0;  // the most that received_ has been
  uint64_t thrown_away_ = 0;
  uint64_t error_bytes_ = 0;  // of the text beside a status, in this attempt
  int failures_ = 0;
  int wrong_hashes_ = 0;
  bool body_begun_ = false;
  bool done_ = false;
};

}  // namespace deeptitan

#include "hub/download.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>

#include "core/error.h"
#include "core/file.h"
#include "hub/cache_layout.h"
#include "hub/file_transfer.h"
#include "hub/repository_listing.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kProgressInterval{100};

struct MultiFree {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};

/// A transfer and the files of the repository that hold its bytes (several where files are equal).
struct Item {
  FileTransfer transfer;
  std::vector<size_t> files;
};

/// Runs transfers side by side on one thread.
class Downloader {
 public:
  Downloader(std::deque<Item>& items, std::vector<FileProgress>& files, const DownloadOptions& options)
      : options_(options), items_(items), files_(files), multi_(curl_multi_init()) {
    DT_CHECK(multi_ != nullptr, "libcurl could not be initialised");
    for (Item& item : items) {
      if (!item.transfer.done()) waiting_.push_back(&item);
    }
  }
  ~Downloader() {
    for (const auto& [handle, item] : active_) curl_multi_remove_handle(multi_.get(), handle);
  }

  void run() {
    report(true);
    while (!waiting_.empty() || !active_.empty()) {
      start_waiting();
      int running = 0;
      check(curl_multi_perform(multi_.get(), &running));
      const bool ended = collect_ended();
      report(ended);
      if (!ended) check(curl_multi_poll(multi_.get(), nullptr, 0, 50, nullptr));
    }
    report(true);
  }

 private:
  static void check(CURLMcode code) { DT_CHECK(code == CURLM_OK, "libcurl: {}", curl_multi_strerror(code)); }

  void start_waiting() {
    const auto now = Clock::now();
    for (auto position = waiting_.begin(); position != waiting_.end();) {
      if (active_.size() >= static_cast<size_t>(options_.parallel)) return;
      Item* item = *position;
      if (item->transfer.retry_at() > now) {
        ++position;
        continue;
      }
      if (CURL* handle = item->transfer.start()) {
        active_.emplace(handle, item);
        check(curl_multi_add_handle(multi_.get(), handle));
      }
      position = waiting_.erase(position);
    }
  }

  bool collect_ended() {
    bool ended = false;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURL* handle = message->easy_handle;
      const CURLcode code = message->data.result;
      Item* item = active_.at(handle);
      active_.erase(handle);
      check(curl_multi_remove_handle(multi_.get(), handle));
      item->transfer.end_attempt(code);
      if (!item->transfer.done()) waiting_.push_back(item);
      ended = true;
    }
    return ended;
  }

  void report(bool now) {
    if (!options_.progress || (!now && Clock::now() - reported_ < kProgressInterval)) return;
    reported_ = Clock::now();
    for (const auto& [handle, item] : active_) {
      for (const size_t file : item->files) files_[file].started = true;
    }
    for (const Item& item : items_) {
      for (const size_t file : item.files) {
        files_[file].received = item.transfer.received();
        files_[file].done = item.transfer.done();
      }
    }
    options_.progress(files_);
  }

  const DownloadOptions& options_;
  std::deque<Item>& items_;
  std::vector<FileProgress>& files_;
  std::unique_ptr<CURLM, MultiFree> multi_;
  std::deque<Item*> waiting_;
  std::map<CURL*, Item*> active_;
  Clock::time_point reported_{};
};

void check_room(const std::deque<Item>& items, const fs::path& directory) {
  uint64_t missing = 0;
  for (const Item& item : items) missing += item.transfer.file().size - item.transfer.received();
  std::error_code error;
  fs::path existing = fs::absolute(directory);
  while (!fs::exists(existing, error) && existing.has_relative_path()) existing = existing.parent_path();
  const auto space = fs::space(existing, error);
  DT_CHECK(error || missing <= space.available,
           "{} of the model are missing, the disk of {} has {} free; make room, or choose another place with --dir or "
           "HF_HOME",
           format_bytes(missing), directory.string(), format_bytes(space.available));
}

void check_revision(const std::string& revision) {
  DT_CHECK_USAGE(is_safe_path(revision), "\"{}\" is not the name of a branch, tag or commit", revision);
}

}  // namespace

DownloadSummary download_model(const std::string& repository, const HubSettings& settings,
                               const DownloadOptions& options) {
  DT_CHECK_USAGE(options.parallel > 0, "at least 1 file must be fetched at a time, found {}", options.parallel);
  check_revision(options.revision);
  const RepositoryListing listing =
      list_repository(repository, options.revision, options.include, settings, options.patience);
  const bool cached = options.directory.empty();
  const CacheLayout cache(settings.cache_directory, repository);

  std::deque<FileTransfer::Source> sources;  // transfers refer to them
  std::deque<Item> items;
  std::map<fs::path, size_t> item_of;
  std::vector<FileProgress> files;
  for (const RemoteFile& file : listing.files) {
    const FilePlaces places = cached ? cache.places_of(file) : places_in_directory(options.directory, file);
    const auto [position, added] = item_of.emplace(places.complete, items.size());
    if (added) {
      sources.push_back({file_url(settings, repository, listing.commit, file.name), repository, listing.commit,
                         settings, options.patience});
      items.push_back({FileTransfer(file, places, sources.back()), {}});
      items.back().transfer.inspect();
    }
    Item& item = items[position->second];
    item.files.push_back(files.size());
    const uint64_t present = item.transfer.received();
    files.push_back({file.name, present, file.size, present, false, item.transfer.done()});
  }
  const fs::path directory = cached ? cache.snapshot(listing.commit) : options.directory;
  check_room(items, cached ? settings.cache_directory : options.directory);
  Downloader(items, files, options).run();

  DownloadSummary summary{directory, listing.commit, static_cast<int64_t>(listing.files.size()), 0, 0};
  for (const RemoteFile& file : listing.files) {
    summary.bytes += file.size;
    if (cached) cache.link(listing.commit, file);
  }
  for (const Item& item : items) summary.fetched_bytes += item.transfer.fetched();
  if (cached) cache.write_ref(options.revision, listing.commit);
  return summary;
}

}  // namespace deeptitan

#include "hub/file_transfer.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr uint64_t kMaxErrorBytes = uint64_t{1} << 20;
/// What may be thrown away of the smallest file before its transfer is given up.
constexpr uint64_t kThrownAwayAtLeast = uint64_t{1} << 20;

/// Hashes the first `bytes` bytes of a file.
void hash_prefix(const File& file, uint64_t bytes, BlobHash& hash) {
  std::vector<char> buffer(static_cast<size_t>(std::min<uint64_t>(kReadBytes, bytes)));
  for (uint64_t offset = 0; offset < bytes;) {
    const auto count = static_cast<size_t>(std::min<uint64_t>(buffer.size(), bytes - offset));
    file.read_at(buffer.data(), count, offset);
    hash.update(buffer.data(), count);
    offset += count;
  }
}

/// The first byte of a "Content-Range: bytes FIRST-LAST/SIZE"; UINT64_MAX if it cannot be read.
uint64_t range_start(const std::string& content_range) {
  uint64_t first = 0;
  size_t digits = 0;
  if (!content_range.starts_with("bytes ")) return UINT64_MAX;
  for (size_t i = 6; i < content_range.size() && content_range[i] >= '0' && content_range[i] <= '9' && digits < 19;
       ++i) {
    first = first * 10 + static_cast<uint64_t>(content_range[i] - '0');
    ++digits;
  }
  return digits == 0 ? UINT64_MAX : first;
}

}  // namespace

FileTransfer::FileTransfer(RemoteFile file, FilePlaces places, const Source& source)
    : file_(std::move(file)), places_(std::move(places)), source_(source) {}

/// A blob's name is its hash, so its size is enough; a file under its own name must be read.
bool FileTransfer::verified_in_place() const {
  std::error_code error;
  if (!fs::is_regular_file(places_.complete, error) || fs::file_size(places_.complete, error) != file_.size)
    return false;
  if (places_.complete.filename() == file_.hash) return true;
  BlobHash hash(file_.hash, file_.size);
  hash_prefix(File::open(places_.complete), file_.size, hash);
  return hash.finish() == file_.hash;
}

void FileTransfer::inspect() {
  done_ = verified_in_place();
  std::error_code error;
  const uint64_t present = fs::file_size(places_.incomplete, error);
  received_ = done_ ? file_.size : (error || present > file_.size ? 0 : present);
}

void FileTransfer::open_output() {
  lock_ = std::make_unique<FileLock>(places_.lock, source_.repository + ": " + file_.name);
  if (verified_in_place()) {  // somebody else fetched it before the lock was ours
    received_ = file_.size;
    done_ = true;
    lock_.reset();
    return;
  }
  for (const fs::path& path : {places_.incomplete, places_.complete}) {
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) fail_file("create", path.parent_path(), error.value());
  }
  output_ = File::open_or_create(places_.incomplete);
  const uint64_t present = output_->size();
  restart_from(present <= file_.size ? present : 0);
  thrown_away_ = 0;
  furthest_ = received_;
  if (received_ == file_.size) complete();
}

void FileTransfer::restart_from(uint64_t bytes) {
  if (received_ > bytes) thrown_away_ += received_ - bytes;
  output_->resize(bytes);
  received_ = bytes;
  hash_.emplace(file_.hash, file_.size);
  hash_prefix(*output_, bytes, *hash_);
}

CURL* FileTransfer::start() {
  if (!output_) open_output();
  if (done_) return nullptr;
  headers_ = {};
  error_ = nullptr;
  body_begun_ = false;
  error_bytes_ = 0;
  handle_ = make_curl_handle(source_.url, source_.settings.token, source_.patience, headers_);
  curl_easy_setopt(handle_.get(), CURLOPT_WRITEFUNCTION, &FileTransfer::on_bytes);
  curl_easy_setopt(handle_.get(), CURLOPT_WRITEDATA, this);
  if (received_ > 0) {
    range_ = fmt::format("{}-", received_);
    curl_easy_setopt(handle_.get(), CURLOPT_RANGE, range_.c_str());
  }
  return handle_.get();
}

size_t FileTransfer::on_bytes(char* data, size_t size, size_t count, void* context) {
  auto* transfer = static_cast<FileTransfer*>(context);
  try {
    return transfer->receive(data, size * count);
  } catch (...) {
    transfer->error_ = std::current_exception();
    return 0;
  }
}

/// Before the first byte: whether these are the bytes that were asked for, and from which one on.
void FileTransfer::begin_body(long status) {
  body_begun_ = true;
  const std::string commit = header_value(headers_.first, "x-repo-commit");
  DT_CHECK(commit.empty() || commit == source_.commit,
           "{} sends {} of commit {}, asked for {}; run the same command again", source_.settings.endpoint, file_.name,
           commit, source_.commit);
  if (status == 206) {
    const std::string range = header_value(headers_.last, "content-range");
    DT_CHECK(range_start(range) == received_, "{} sends {} from another place than asked for (byte {}): \"{}\"",
             host_of(source_.url), file_.name, received_, range);
  } else if (received_ > 0) {
    restart_from(0);  // the server sends the whole file again
  }
}

size_t FileTransfer::receive(const char* data, size_t bytes) {
  long status = 0;
  curl_easy_getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &status);
  if (status != 200 && status != 206) {  // the text of an error
    error_bytes_ += bytes;
    DT_CHECK(error_bytes_ <= kMaxErrorBytes,
             "{} answers {} for {} with a text that does not end; run the same command "
             "again later",
             host_of(source_.url), status, file_.name);
    return bytes;
  }
  if (!body_begun_) begin_body(status);
  DT_CHECK(bytes <= file_.size - received_, "{} sends more than the {} bytes of {} that it announced",
           host_of(source_.url), file_.size, file_.name);
  output_->write_at(data, bytes, received_);
  hash_->update(data, bytes);
  received_ += bytes;
  fetched_ += bytes;
  return bytes;
}

void FileTransfer::complete() {
  const std::string found = hash_->finish();
  if (found != file_.hash) {
    restart_from(0);
    ++wrong_hashes_;
    DT_CHECK(wrong_hashes_ < 2,
             "{}: the bytes have {} {}, the hub says {}; they were thrown away, run the same command again", file_.name,
             file_.hash.size() == 64 ? "SHA-256" : "git SHA-1", found, file_.hash);
    return;
  }
  output_->sync();
  output_.reset();
  std::error_code error;
  fs::rename(places_.incomplete, places_.complete, error);
  if (error) fail_file("rename " + places_.incomplete.string() + " to", places_.complete, error.value());
  lock_.reset();
  done_ = true;
}

/// Bytes count as progress where they are new (not those that came before and were thrown away), enough, and came fast
/// enough; so every way of failing has an end.
void FileTransfer::give_up_or_retry(const std::string& problem, bool too_slow) {
  const bool progress = !too_slow && received_ >= furthest_ + source_.patience.least_progress_bytes;
  furthest_ = std::max(furthest_, received_);
  if (progress) failures_ = 0;
  ++failures_;
  DT_CHECK(thrown_away_ <= 2 * file_.size + kThrownAwayAtLeast,
           "{}: {}; it does not go on where it was broken off, and {} were thrown away for a file of {}; run the same "
           "command again later",
           file_.name, problem, format_bytes(thrown_away_), format_bytes(file_.size));
  DT_CHECK(failures_ < source_.patience.attempts,
           "{}: {} after {} of {}; what has come is kept, run the same command again to go on", file_.name, problem,
           format_bytes(received_), format_bytes(file_.size));
  retry_at_ =
      std::chrono::steady_clock::now() + retry_delay(source_.patience, failures_, headers_, host_of(source_.url));
}

void FileTransfer::end_attempt(CURLcode code) {
  long status = 0;
  char* final_url = nullptr;
  curl_easy_getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(handle_.get(), CURLINFO_EFFECTIVE_URL, &final_url);
  const std::string host = host_of(final_url == nullptr ? source_.url : final_url);
  handle_.reset();
  if (error_ != nullptr) std::rethrow_exception(error_);
  if (code != CURLE_OK) {
    if (!is_transient(code)) fail_connection(source_.url, code, "run the same command again to go on");
    return give_up_or_retry(fmt::format("the connection to {} broke ({})", host, curl_easy_strerror(code)),
                            code == CURLE_OPERATION_TIMEDOUT);
  }
  if (status == 416) {  // nothing there: what is on the disk does not belong to this file
    restart_from(0);
    return give_up_or_retry(fmt::format("{} has no such part of the file", host));
  }
  // A store's signed address expires (403); the hub itself gives a fresh one.
  const bool expired = status == 403 && host != host_of(source_.url);
  if (expired || is_transient_status(status)) return give_up_or_retry(fmt::format("{} answers {}", host, status));
  if (status != 200 && status != 206) {
    fail_status(status, headers_, source_.repository, source_.commit, file_.name, source_.settings);
  }
  if (received_ < file_.size) return give_up_or_retry(fmt::format("{} ended the transfer", host));
  complete();
}

}  // namespace deeptitan

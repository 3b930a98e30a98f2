#include "data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <vector>

#include <unistd.h>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "data/content_hash.h"
#include "data/mapped_file.h"

namespace deeptitan {

namespace {

constexpr char kMagic[8] = {'D', 'T', 'T', 'O', 'K', 'E', 'N', '1'};

/// The beginning of a token file. Behind it stand the tokens (int32), zeros up to a multiple of 8 bytes, and where each
/// document starts (int64, one more than there are documents). All numbers are little-endian.
struct Header {
  char magic[8];
  int64_t tokens;
  int64_t documents;
  int64_t files;
  int64_t bytes;
  int64_t replaced_characters;
  int64_t largest_token;
  char content_hash[32];
};
static_assert(sizeof(Header) % 8 == 0);
static_assert(std::endian::native == std::endian::little);

uint64_t document_starts_offset(int64_t tokens) {
  return (sizeof(Header) + static_cast<uint64_t>(tokens) * sizeof(int32_t) + 7) / 8 * 8;
}

uint64_t file_size(const Header& header) {
  return document_starts_offset(header.tokens) + (static_cast<uint64_t>(header.documents) + 1) * sizeof(int64_t);
}

/// Tokenises documents a few megabytes at a time, on all cores, and writes them in order.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::filesystem::path& path, const TextEncoder& encoder)
      : file_(File::create(path)), encoder_(encoder) {
    // The header comes last, so that a file cut short has none.
    const Header empty{};
    file_.write_at(&empty, sizeof empty, 0);
  }

  void add(std::string_view document) {
    pending_.emplace_back(document);
    pending_bytes_ += document.size();
    if (pending_bytes_ >= kPendingBytes) flush();
  }

  void finish(const TextStatistics& statistics, std::string_view content_hash) {
    flush();
    Header header{};
    memcpy(header.magic, kMagic, sizeof kMagic);
    header.tokens = document_starts_.back();
    header.documents = statistics.documents;
    header.files = statistics.files;
    header.bytes = statistics.bytes;
    header.replaced_characters = statistics.replaced_characters;
    header.largest_token = largest_token_;
    memcpy(header.content_hash, content_hash.data(), sizeof header.content_hash);
    file_.resize(document_starts_offset(header.tokens));
    file_.write_at(document_starts_.data(), document_starts_.size() * sizeof(int64_t),
                   document_starts_offset(header.tokens));
    file_.write_at(&header, sizeof header, 0);
    file_.sync();
  }

 private:
  static constexpr size_t kPendingBytes = 8 << 20;

  void flush() {
    std::vector<std::vector<int32_t>> tokens(pending_.size());
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < pending_.size(); ++i) {
      try {
        encoder_.encode(pending_[i], tokens[i]);
      } catch (...) {
#pragma omp critical(dt_token_file_failure)
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    for (std::vector<int32_t>& document : tokens) {
      document.push_back(encoder_.eos_token_id);
      for (const int32_t token : document) {
        DT_CHECK(token >= 0, "the tokenizer gave the token {}; expected none below 0", token);
        largest_token_ = std::max<int64_t>(largest_token_, token);
      }
      const int64_t start = document_starts_.back();
      file_.write_at(document.data(), document.size() * sizeof(int32_t),
                     sizeof(Header) + static_cast<uint64_t>(start) * sizeof(int32_t));
      document_starts_.push_back(start + static_cast<int64_t>(document.size()));
    }
    pending_.clear();
    pending_bytes_ = 0;
  }

  File file_;
  const TextEncoder& encoder_;
  std::vector<std::string> pending_;
  size_t pending_bytes_ = 0;
  std::vector<int64_t> document_starts_ = {0};
  int64_t largest_token_ = 0;
};

std::string hash_of_content(const TextSource& source, const std::filesystem::path& path, const TextEncoder& encoder) {
  ContentHash hash;
  hash.add(std::string_view(kMagic, sizeof kMagic));
  hash.add(encoder.fingerprint);
  hash.add(std::to_string(encoder.eos_token_id));
  hash.add(source.text_field);
  hash.add(source.document_separator);
  for (const std::filesystem::path& file : list_text_files(path)) {
    hash.add(file.extension().string());  // decides how the file is read
    hash.add(MappedFile(file).bytes());
  }
  return hash.hex();
}

void write_token_file(const TextSource& source, const std::filesystem::path& path, const TextEncoder& encoder,
                      const std::string& content_hash, const std::filesystem::path& target) {
  std::filesystem::path temporary = target;
  temporary += fmt::format(".{}.tmp", ::getpid());
  try {
    TokenFileWriter writer(temporary, encoder);
    const TextStatistics statistics =
        for_each_document(source, path, [&](std::string_view document) { writer.add(document); });
    DT_CHECK_USAGE(statistics.documents > 0, "the text {} is empty; expected at least one document", path.string());
    writer.finish(statistics, content_hash);
    std::filesystem::rename(temporary, target);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

}  // namespace

struct TokenFile::State {
  std::filesystem::path path;
  MappedFile file;
  TextStatistics statistics;
  int64_t tokens;
  int32_t largest_token;
  std::string content_hash;
};

TokenFile::TokenFile(const std::filesystem::path& path) {
  MappedFile file(path);
  const std::string_view bytes = file.bytes();
  Header header{};
  if (bytes.size() >= sizeof header) memcpy(&header, bytes.data(), sizeof header);
  const int64_t most = static_cast<int64_t>(bytes.size());
  const bool whole = memcmp(header.magic, kMagic, sizeof kMagic) == 0 && header.tokens >= 0 && header.tokens <= most &&
                     header.documents >= 0 && header.documents <= most && file_size(header) == bytes.size();
  DT_CHECK(whole, "{} is damaged or not a token file; remove it and it is made anew", path.string());
  const TextStatistics statistics{header.files, header.documents, header.bytes, header.replaced_characters};
  state_ = std::make_unique<State>(State{path, std::move(file), statistics, header.tokens,
                                         static_cast<int32_t>(header.largest_token),
                                         std::string(header.content_hash, sizeof header.content_hash)});
}

TokenFile::TokenFile(TokenFile&&) noexcept = default;
TokenFile& TokenFile::operator=(TokenFile&&) noexcept = default;
TokenFile::~TokenFile() = default;

const std::filesystem::path& TokenFile::path() const {
  return state_->path;
}
const TextStatistics& TokenFile::statistics() const {
  return state_->statistics;
}
int32_t TokenFile::largest_token() const {
  return state_->largest_token;
}
const std::string& TokenFile::content_hash() const {
  return state_->content_hash;
}

TokenRange TokenFile::all() const {
  const char* data = state_->file.bytes().data();
  const auto* tokens = reinterpret_cast<const int32_t*>(data + sizeof(Header));
  const auto* starts = reinterpret_cast<const int64_t*>(data + document_starts_offset(state_->tokens));
  return {{tokens, static_cast<size_t>(state_->tokens)},
          {starts, static_cast<size_t>(state_->statistics.documents) + 1},
          0,
          state_->tokens};
}

TokenFile open_token_file(const TextSource& source, const std::filesystem::path& path, const TextEncoder& encoder,
                          const std::filesystem::path& cache_folder) {
  const std::string hash = hash_of_content(source, path, encoder);
  const std::filesystem::path target = cache_folder / fmt::format("{}.tokens", hash);
  const bool cached = std::filesystem::exists(target);
  if (!cached) {
    std::error_code error;
    std::filesystem::create_directories(cache_folder, error);
    DT_CHECK_USAGE(!error, "cannot create data.cache_folder = {}: {}", cache_folder.string(), error.message());
    write_token_file(source, path, encoder, hash, target);
  }
  TokenFile file(target);
  const TextStatistics& s = file.statistics();
  log_info(fmt::format("{}: {} tokens, {} documents, {} in {} files{}", path.string(), file.all().size(), s.documents,
                       format_bytes(static_cast<uint64_t>(s.bytes)), s.files, cached ? " (tokenised before)" : ""));
  if (s.replaced_characters > 0) {
    log_warning(fmt::format("{}: {} places were not UTF-8 and became U+FFFD", path.string(), s.replaced_characters));
  }
  return file;
}

}  // namespace deeptitan

#include "data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/mapped_file.h"
#include "data/chat_line.h"
#include "data/compressed_file.h"
#include "data/content_hash.h"
#include "data/source_files.h"
#include "data/token_cache.h"

namespace deeptitan {

/// The beginning of a token file. Behind it stand the tokens (int32), zeros up to a multiple of 8 bytes, where each
/// document starts (int64, one more than there are documents), and, for conversations, TokenRange::in_loss. All numbers
/// are little-endian.
struct TokenFileHeader {
  char magic[8];
  int64_t tokens;
  int64_t documents;
  int64_t files;
  int64_t bytes;
  int64_t replaced_characters;
  int64_t answers_without_end;
  int64_t largest_token;
  int64_t is_chat;  // 0 or 1
  char content_hash[32];
  char digest[32];  // of all that follows the header, then of the header with this left zero
};
static_assert(sizeof(TokenFileHeader) % 8 == 0);
static_assert(std::endian::native == std::endian::little);

namespace {

constexpr char kMagic[8] = {'D', 'T', 'T', 'O', 'K', 'E', 'N', '3'};

uint64_t document_starts_offset(int64_t tokens) {
  return (sizeof(TokenFileHeader) + static_cast<uint64_t>(tokens) * sizeof(int32_t) + 7) / 8 * 8;
}

uint64_t in_loss_offset(const TokenFileHeader& header) {
  return document_starts_offset(header.tokens) + (static_cast<uint64_t>(header.documents) + 1) * sizeof(int64_t);
}

uint64_t in_loss_bytes(const TokenFileHeader& header) {
  return header.is_chat != 0 ? (static_cast<uint64_t>(header.tokens) + 7) / 8 : 0;
}

void seal(TokenFileHeader& header, Digest digest) {
  memset(header.digest, 0, sizeof header.digest);
  digest.add(&header, sizeof header);
  const std::string hex = digest.hex();
  memcpy(header.digest, hex.data(), sizeof header.digest);
}

/// Whether every answer, a run of tokens in the loss, ends with the token `eos`.
bool answers_end(const EncodedTurns& turns, int32_t eos) {
  for (size_t i = 0; i < turns.ids.size(); ++i) {
    const bool last = turns.in_loss[i] && (i + 1 == turns.ids.size() || !turns.in_loss[i + 1]);
    if (last && turns.ids[i] != eos) return false;
  }
  return true;
}

bool digest_fits(const TokenFileHeader& header, std::string_view bytes) {
  Digest digest;
  digest.add(bytes.data() + sizeof header, bytes.size() - sizeof header);
  TokenFileHeader sealed = header;
  seal(sealed, std::move(digest));
  return memcmp(sealed.digest, header.digest, sizeof header.digest) == 0;
}

/// Tokenises documents a few megabytes at a time, on all cores, and writes them in order.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::filesystem::path& path, const TextSource& source, const TextEncoder& encoder)
      : file_(File::create(path)), source_(source), encoder_(encoder) {
    // The header comes last, so that a file cut short has none.
    const TokenFileHeader empty{};
    file_.write_at(&empty, sizeof empty, 0);
  }

  void add(std::string_view document, const std::string& where) {
    pending_.push_back({std::string(document), where});
    pending_bytes_ += document.size();
    if (pending_bytes_ >= kPendingBytes) flush();
  }

  void finish(const TextStatistics& statistics, std::string_view content_hash) {
    flush();
    TokenFileHeader header{};
    memcpy(header.magic, kMagic, sizeof kMagic);
    header.tokens = document_starts_.back();
    header.documents = statistics.documents;
    header.files = statistics.files;
    header.bytes = statistics.bytes;
    header.replaced_characters = statistics.replaced_characters;
    header.answers_without_end = answers_without_end_;
    header.largest_token = largest_token_;
    header.is_chat = is_chat() ? 1 : 0;
    memcpy(header.content_hash, content_hash.data(), sizeof header.content_hash);
    const int64_t zeros = 0;
    append(&zeros, document_starts_offset(header.tokens) - end_);
    append(document_starts_.data(), document_starts_.size() * sizeof(int64_t));
    if (is_chat()) append(in_loss_.data(), in_loss_.size());
    seal(header, std::move(digest_));
    file_.write_at(&header, sizeof header, 0);
    file_.sync();
  }

 private:
  static constexpr size_t kPendingBytes = 8 << 20;

  struct Document {
    std::string text;
    std::string where;
  };

  bool is_chat() const { return source_.format == SourceFormat::kChat; }

  EncodedTurns encode(const Document& document) const {
    EncodedTurns encoded;
    if (!is_chat()) {
      encoder_.encode(document.text, encoded.ids);
      encoded.ids.push_back(encoder_.eos_token_id);
      return encoded;
    }
    const Conversation conversation = parse_chat_line(document.text, source_.messages_field, document.where);
    try {
      return encoder_.encode_chat(conversation);
    } catch (const Error& error) {
      fail_usage("{}: {}", document.where, error.what());
    }
  }

  void flush() {
    std::vector<EncodedTurns> encoded(pending_.size());
    // Of several documents that fail, the first is reported, however many threads there are.
    std::exception_ptr failure;
    size_t failed = pending_.size();
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < pending_.size(); ++i) {
      try {
        encoded[i] = encode(pending_[i]);
      } catch (...) {
#pragma omp critical(dt_token_file_failure)
        if (i < failed) {
          failed = i;
          failure = std::current_exception();
        }
      }
    }
    if (failure) std::rethrow_exception(failure);
    for (const EncodedTurns& document : encoded) append(document);
    pending_.clear();
    pending_bytes_ = 0;
  }

  void append(const void* data, size_t bytes) {
    file_.write_at(data, bytes, end_);
    digest_.add(data, bytes);
    end_ += bytes;
  }

  void append(const EncodedTurns& document) {
    for (const int32_t token : document.ids) {
      DT_CHECK(token >= 0, "the tokenizer gave the token {}; expected none below 0", token);
      largest_token_ = std::max<int64_t>(largest_token_, token);
    }
    const int64_t start = document_starts_.back();
    const int64_t end = start + static_cast<int64_t>(document.ids.size());
    append(document.ids.data(), document.ids.size() * sizeof(int32_t));
    document_starts_.push_back(end);
    if (!is_chat()) return;
    if (!answers_end(document, encoder_.eos_token_id)) ++answers_without_end_;
    in_loss_.resize((static_cast<size_t>(end) + 7) / 8);
    for (size_t i = 0; i < document.ids.size(); ++i) {
      const size_t token = static_cast<size_t>(start) + i;
      if (document.in_loss[i]) in_loss_[token / 8] |= static_cast<uint8_t>(1u << (token % 8));
    }
  }

  File file_;
  uint64_t end_ = sizeof(TokenFileHeader);
  Digest digest_;  // of the bytes between the header and end_
  const TextSource& source_;
  const TextEncoder& encoder_;
  std::vector<Document> pending_;
  size_t pending_bytes_ = 0;
  std::vector<int64_t> document_starts_ = {0};
  std::vector<uint8_t> in_loss_;
  int64_t largest_token_ = 0;
  int64_t answers_without_end_ = 0;
};

ContentHash hash_of_options(const TextSource& source, const TextEncoder& encoder) {
  ContentHash hash;
  hash.add(std::string_view(kMagic, sizeof kMagic));
  hash.add(encoder.fingerprint);
  hash.add(std::to_string(encoder.eos_token_id));
  if (source.format == SourceFormat::kChat) {
    hash.add("chat");
    hash.add(encoder.chat_fingerprint);
    hash.add(source.messages_field);
  } else {
    hash.add(source.text_field);
    hash.add(source.document_separator);
  }
  return hash;
}

/// Of what decides the tokens. A text that is read as it always was keeps its hash from version to version, so that its
/// caches and checkpoints go on.
std::string hash_of_content(const TextSource& source, const SourceFiles& files, const TextEncoder& encoder) {
  ContentHash hash = hash_of_options(source, encoder);
  const bool splits_lines = source.document_separator.find('\n') != std::string::npos;
  for (const std::filesystem::path& file : files.files) {
    const std::string extension = file.extension().string();
    const MappedFile mapped(file);
    hash.add(extension);
    hash.add(mapped.bytes());
    if (compression_of(mapped.bytes()) != Compression::kNone) {
      hash.add("compressed");
      continue;
    }
    const FileLayout layout = layout_of(source, file, mapped.bytes());
    const FileLayout by_extension =
        source.format == SourceFormat::kChat || extension == ".jsonl" ? FileLayout::kJsonLines : FileLayout::kText;
    if (layout != by_extension) hash.add(fmt::format("layout {}", static_cast<int>(layout)));
    if (splits_lines && mapped.bytes().find("\r\n") != std::string_view::npos) hash.add("crlf");
  }
  return hash.hex();
}

void write_token_file(const TextSource& source, const std::filesystem::path& path, const TextEncoder& encoder,
                      const std::string& content_hash, const std::filesystem::path& target) {
  const UnfinishedFile unfinished(target);
  TokenFileWriter writer(unfinished.path(), source, encoder);
  const TextStatistics statistics = for_each_document(
      source, path, [&](std::string_view document, const std::string& where) { writer.add(document, where); });
  DT_CHECK_USAGE(statistics.documents > 0, "the text {} is empty; expected at least one document", path.string());
  writer.finish(statistics, content_hash);
  std::filesystem::rename(unfinished.path(), target);
}

}  // namespace

struct TokenFile::State {
  std::filesystem::path path;
  MappedFile file;
  TextStatistics statistics;
  TokenFileHeader header;
  std::string content_hash;
};

TokenFile::TokenFile(const std::filesystem::path& path) {
  MappedFile file(path);
  const std::string_view bytes = file.bytes();
  TokenFileHeader header{};
  if (bytes.size() >= sizeof header) memcpy(&header, bytes.data(), sizeof header);
  const int64_t most = static_cast<int64_t>(bytes.size());
  const bool whole = memcmp(header.magic, kMagic, sizeof kMagic) == 0 && header.tokens >= 0 && header.tokens <= most &&
                     header.documents >= 0 && header.documents <= most &&
                     in_loss_offset(header) + in_loss_bytes(header) == bytes.size() && digest_fits(header, bytes);
  DT_CHECK(whole, "{} is damaged or not a token file; remove it and it is made anew", path.string());
  const TextStatistics statistics{header.files, header.documents, header.bytes, header.replaced_characters,
                                  header.answers_without_end};
  state_ = std::make_unique<State>(
      State{path, std::move(file), statistics, header, std::string(header.content_hash, sizeof header.content_hash)});
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
  return static_cast<int32_t>(state_->header.largest_token);
}
const std::string& TokenFile::content_hash() const {
  return state_->content_hash;
}

TokenRange TokenFile::all() const {
  const TokenFileHeader& header = state_->header;
  const char* data = state_->file.bytes().data();
  const auto* tokens = reinterpret_cast<const int32_t*>(data + sizeof(TokenFileHeader));
  const auto* starts = reinterpret_cast<const int64_t*>(data + document_starts_offset(header.tokens));
  const auto* in_loss = reinterpret_cast<const uint8_t*>(data + in_loss_offset(header));
  return {.tokens = {tokens, static_cast<size_t>(header.tokens)},
          .document_starts = {starts, static_cast<size_t>(header.documents) + 1},
          .first = 0,
          .end = header.tokens,
          .in_loss = {in_loss, in_loss_bytes(header)}};
}

TokenFile open_token_file(const TextSource& source, const std::filesystem::path& path, const TextEncoder& encoder,
                          const std::filesystem::path& cache_folder) {
  const SourceFiles files = list_source_files(source, path);
  std::error_code error;
  std::filesystem::create_directories(cache_folder, error);
  DT_CHECK_USAGE(!error, "cannot create data.cache_folder = {}: {}", cache_folder.string(), error.message());
  remove_unfinished_files(cache_folder);
  // The text itself is read only where a file has changed since it was last hashed.
  KnownHash known(cache_folder, files.files, hash_of_options(source, encoder));
  if (!known.value()) known.remember(hash_of_content(source, files, encoder));
  const std::string& hash = *known.value();
  const std::filesystem::path target = cache_folder / fmt::format("{}.tokens", hash);
  std::optional<TokenFile> opened;
  if (std::filesystem::exists(target)) {
    try {
      opened.emplace(target);
    } catch (const Error& damage) {
      log_warning(fmt::format("{} is damaged, the text is tokenised anew", target.string()));
    }
  }
  const bool cached = opened.has_value();
  if (!cached) {
    write_token_file(source, path, encoder, hash, target);
    opened.emplace(target);
  }
  TokenFile file = std::move(*opened);
  const TextStatistics& s = file.statistics();
  const bool chat = source.format == SourceFormat::kChat;
  log_info(fmt::format("{}: {} tokens, {} {}, {} in {} files{}", path.string(), file.all().size(), s.documents,
                       chat ? "conversations" : "documents", format_bytes(static_cast<uint64_t>(s.bytes)), s.files,
                       cached ? " (tokenised before)" : ""));
  if (files.not_chosen > 0) {
    log_info(fmt::format("{}: {} files are left out by include and exclude", path.string(), files.not_chosen));
  }
  if (files.binary > 0) {
    log_warning(fmt::format("{}: {} binary files are left out, the first is {} ({})", path.string(), files.binary,
                            files.first_binary.string(), files.first_binary_holds));
  }
  if (s.answers_without_end > 0) {
    log_warning(
        fmt::format("{}: in {} conversations an answer does not end with the tokenizer's eos token, so the model "
                    "does not learn to stop there; a chat template writes eos_token behind each answer",
                    path.string(), s.answers_without_end));
  }
  if (s.replaced_characters > 0) {
    log_warning(fmt::format("{}: {} places were not UTF-8 and became U+FFFD", path.string(), s.replaced_characters));
  }
  return file;
}

}  // namespace deeptitan

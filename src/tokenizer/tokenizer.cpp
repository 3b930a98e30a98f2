#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tiktoken_model.h"
#include "tokenizer/tokenizer_json.h"

namespace deeptitan {
namespace {

constexpr const char* kTokenizerJson = "tokenizer.json";
constexpr const char* kTiktokenModel = "tiktoken.model";

}  // namespace

struct Tokenizer::State {
  // What one call of encode needs; kept from call to call, so that the pieces seen before are found again.
  struct EncodeScratch {
    PreTokenizer::Scratch pre_tokenizer;
    BpeModel::Scratch model;
    std::vector<PreTokenizer::Piece> pieces;
    std::vector<AddedTokenMatcher::Part> parts;
    std::vector<AddedTokenMatcher::Part> normalized_parts;
  };

  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string chat_template_jinja;

  bool normalize = false;
  PreTokenizer pre_tokenizer;
  BpeModel model;
  std::map<int32_t, AddedToken> added_tokens;
  AddedTokenMatcher raw_matcher;         // added tokens looked for in the text as it is given
  AddedTokenMatcher normalized_matcher;  // and those looked for in what normalisation makes of it
  std::unordered_map<std::string, int32_t> id_of_token;
  std::string bytes_of_tokens;
  std::vector<uint32_t> bytes_end;  // for each id where its bytes end; they start where those of the id before do
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  std::optional<int32_t> bos_token_id;
  std::optional<int32_t> eos_token_id;
  std::optional<int32_t> pad_token_id;

  mutable std::mutex scratch_mutex;
  mutable std::vector<std::unique_ptr<EncodeScratch>> free_scratch;

  void add_tokens(const std::vector<AddedToken>& tokens);
  void build_matchers();
  void build_token_bytes(const std::vector<std::pair<std::string, int32_t>>& vocabulary);
  void apply_config(const TokenizerDescription& description, const TokenizerConfigDescription& config);
  std::optional<int32_t> named_token(const std::optional<std::string>& name, const char* key) const;
  void encode_into(std::string_view text, const EncodeOptions& options, EncodeScratch& scratch,
                   std::vector<int32_t>& ids) const;
  void encode_normalized(std::string_view text, const EncodeOptions& options, EncodeScratch& scratch,
                         std::vector<int32_t>& ids) const;

  std::unique_ptr<EncodeScratch> take_scratch() const {
    const std::lock_guard lock(scratch_mutex);
    if (free_scratch.empty()) return std::make_unique<EncodeScratch>();
    auto scratch = std::move(free_scratch.back());
    free_scratch.pop_back();
    return scratch;
  }
  void return_scratch(std::unique_ptr<EncodeScratch> scratch) const {
    const std::lock_guard lock(scratch_mutex);
    free_scratch.push_back(std::move(scratch));
  }
};

void Tokenizer::State::add_tokens(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    const auto [known, is_new] = id_of_token.try_emplace(token.content, token.id);
    DT_CHECK(known->second == token.id, "the added token \"{}\" has the id {}, but the vocabulary gives it {}",
             token.content, token.id, known->second);
    const auto [same_id, id_is_new] = added_tokens.try_emplace(token.id, token);
    DT_CHECK(same_id->second.content == token.content, "the added tokens \"{}\" and \"{}\" have the same id {}",
             same_id->second.content, token.content, token.id);
    same_id->second = token;
  }
}

void Tokenizer::State::build_matchers() {
  std::vector<const AddedToken*> raw, normalized;
  std::vector<std::string> raw_patterns, normalized_patterns;
  for (const auto& [id, token] : added_tokens) {
    if (token.normalized) {
      normalized.push_back(&token);
      normalized_patterns.push_back(normalize ? normalize_nfc(token.content) : token.content);
    } else {
      raw.push_back(&token);
      raw_patterns.push_back(token.content);
    }
  }
  raw_matcher = AddedTokenMatcher(raw, raw_patterns);
  normalized_matcher = AddedTokenMatcher(normalized, normalized_patterns);
}

void Tokenizer::State::build_token_bytes(const std::vector<std::pair<std::string, int32_t>>& vocabulary) {
  std::vector<std::pair<int32_t, std::string>> tokens;
  for (const auto& [text, id] : vocabulary) {
    if (added_tokens.count(id) == 0) tokens.emplace_back(id, byte_level_decode(text).value_or(text));
  }
  for (const auto& [id, token] : added_tokens) {
    const std::string text = token.normalized && normalize ? normalize_nfc(token.content) : token.content;
    tokens.emplace_back(id, byte_level_decode(text).value_or(text));
  }
  std::sort(tokens.begin(), tokens.end());
  for (const auto& [id, bytes] : tokens) {
    bytes_end.resize(static_cast<size_t>(id), static_cast<uint32_t>(bytes_of_tokens.size()));
    bytes_of_tokens += bytes;
    bytes_end.push_back(static_cast<uint32_t>(bytes_of_tokens.size()));
  }
}

std::optional<int32_t> Tokenizer::State::named_token(const std::optional<std::string>& name, const char* key) const {
  if (!name) return std::nullopt;
  const auto found = id_of_token.find(*name);
  DT_CHECK(found != id_of_token.end(), "tokenizer_config.json: {} is \"{}\", which is not in the vocabulary", key,
           *name);
  return found->second;
}

void Tokenizer::State::apply_config(const TokenizerDescription& description, const TokenizerConfigDescription& config) {
  bos_token_id = named_token(config.bos_token, "bos_token");
  eos_token_id = named_token(config.eos_token, "eos_token");
  pad_token_id = named_token(config.pad_token, "pad_token");
  prefix_ids = description.prefix_ids;
  suffix_ids = description.suffix_ids;
  // As transformers does: either flag, where it is given, replaces what tokenizer.json's post-processor adds.
  if (!config.add_bos_token && !config.add_eos_token && description.has_post_processor) return;
  prefix_ids.clear();
  suffix_ids.clear();
  if (config.add_bos_token.value_or(false)) {
    DT_CHECK(bos_token_id, "tokenizer_config.json: add_bos_token is true, but no bos_token is named");
    prefix_ids.push_back(*bos_token_id);
  }
  if (config.add_eos_token.value_or(false)) {
    DT_CHECK(eos_token_id, "tokenizer_config.json: add_eos_token is true, but no eos_token is named");
    suffix_ids.push_back(*eos_token_id);
  }
}

void Tokenizer::State::encode_normalized(std::string_view text, const EncodeOptions& options, EncodeScratch& scratch,
                                         std::vector<int32_t>& ids) const {
  scratch.normalized_parts.clear();
  normalized_matcher.split(text, options.parse_special_tokens, scratch.normalized_parts);
  for (const AddedTokenMatcher::Part& part : scratch.normalized_parts) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
      continue;
    }
    const std::string_view plain = text.substr(part.begin, part.end - part.begin);
    scratch.pieces.clear();
    pre_tokenizer.split(plain, scratch.pre_tokenizer, scratch.pieces);
    for (const PreTokenizer::Piece& piece : scratch.pieces) {
      model.encode_piece(plain.substr(piece.begin, piece.end - piece.begin), scratch.model, ids);
    }
  }
}

void Tokenizer::State::encode_into(std::string_view text, const EncodeOptions& options, EncodeScratch& scratch,
                                   std::vector<int32_t>& ids) const {
  scratch.parts.clear();
  raw_matcher.split(text, options.parse_special_tokens, scratch.parts);
  for (const AddedTokenMatcher::Part& part : scratch.parts) {
    const std::string_view plain = text.substr(part.begin, part.end - part.begin);
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
    } else if (normalize) {
      encode_normalized(normalize_nfc(plain), options, scratch, ids);
    } else {
      encode_normalized(plain, options, scratch, ids);
    }
  }
}

Tokenizer::Tokenizer(std::shared_ptr<State> state) : state_(std::move(state)) {}

Tokenizer Tokenizer::from_json(std::string tokenizer_json, std::string tokenizer_config_json,
                               std::string chat_template_jinja) {
  TokenizerConfigDescription config;
  if (!tokenizer_config_json.empty()) config = parse_tokenizer_config(tokenizer_config_json);
  const TokenizerDescription description = is_tiktoken_model(tokenizer_json)
                                               ? parse_tiktoken_model(tokenizer_json, config)
                                               : parse_tokenizer_json(tokenizer_json);

  auto state = std::make_shared<State>();
  state->tokenizer_json = std::move(tokenizer_json);
  state->tokenizer_config_json = std::move(tokenizer_config_json);
  state->chat_template_jinja = std::move(chat_template_jinja);
  state->normalize = description.normalize_nfc;
  state->pre_tokenizer = PreTokenizer(description.splits, PreTokenizer::Engine::kFastest);
  state->model =
      BpeModel(description.vocabulary, description.merges, description.ignore_merges, description.merge_ranks);
  DT_CHECK(!description.unknown_token || state->model.covers_all_bytes(),
           "model.unk_token is \"{}\" and some bytes have no token; supported are vocabularies that hold all 256 bytes",
           *description.unknown_token);
  state->id_of_token.insert(description.vocabulary.begin(), description.vocabulary.end());
  state->add_tokens(description.added_tokens);
  state->add_tokens(config.added_tokens);
  state->build_matchers();
  state->build_token_bytes(description.vocabulary);
  state->apply_config(description, config);
  Tokenizer tokenizer(std::move(state));
  for (const std::vector<int32_t>* ids : {&tokenizer.prefix_ids(), &tokenizer.suffix_ids()}) {
    for (const int32_t id : *ids) {
      DT_CHECK(id < tokenizer.vocab_size(), "post_processor adds the token id {}, but the vocabulary has ids 0 to {}",
               id, tokenizer.vocab_size() - 1);
    }
  }
  return tokenizer;
}

std::vector<std::pair<size_t, size_t>> Tokenizer::added_token_places(std::string_view text) const {
  std::vector<std::pair<size_t, size_t>> places;
  std::vector<AddedTokenMatcher::Part> parts, inner;
  state_->raw_matcher.split(text, true, parts);
  for (const AddedTokenMatcher::Part& part : parts) {
    if (part.token != nullptr) {
      places.emplace_back(part.begin, part.end);
      continue;
    }
    inner.clear();
    state_->normalized_matcher.split(text.substr(part.begin, part.end - part.begin), true, inner);
    for (const AddedTokenMatcher::Part& found : inner) {
      if (found.token != nullptr) places.emplace_back(part.begin + found.begin, part.begin + found.end);
    }
  }
  return places;
}

Tokenizer Tokenizer::load(const std::filesystem::path& directory_or_file) {
  const bool is_directory = std::filesystem::is_directory(directory_or_file);
  std::filesystem::path json_path = is_directory ? directory_or_file / kTokenizerJson : directory_or_file;
  if (is_directory && !std::filesystem::exists(json_path) &&
      std::filesystem::exists(directory_or_file / kTiktokenModel)) {
    json_path = directory_or_file / kTiktokenModel;
  }
  std::string config_text, template_text;
  if (is_directory) {
    const std::filesystem::path config_path = directory_or_file / "tokenizer_config.json";
    const std::filesystem::path template_path = directory_or_file / "chat_template.jinja";
    if (std::filesystem::exists(config_path)) config_text = read_file(config_path);
    if (std::filesystem::exists(template_path)) template_text = read_file(template_path);
  }
  DT_CHECK_USAGE(!is_directory || std::filesystem::exists(json_path),
                 "{} holds no tokenizer; expected tokenizer.json or tiktoken.model, as a Hugging Face directory has",
                 directory_or_file.string());
  std::string json_text = read_file(json_path);
  try {
    return from_json(std::move(json_text), std::move(config_text), std::move(template_text));
  } catch (const Error& error) {
    const std::string what = error.what();
    // The file may have another name.
    constexpr std::string_view kJson = "tokenizer.json: ", kConfig = "tokenizer_config.json: ";
    if (what.starts_with(kConfig)) throw Error((json_path.parent_path() / what).string(), error.kind());
    throw Error(fmt::format("{}: {}", json_path.string(), what.substr(what.starts_with(kJson) ? kJson.size() : 0)),
                error.kind());
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string sanitized;
  if (!is_valid_utf8(text)) {
    sanitized = utf8_sanitize(text).text;
    text = sanitized;
  }
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = state_->prefix_ids;
  // If encoding throws, the scratch is not given back: it may be half written.
  std::unique_ptr<State::EncodeScratch> scratch = state_->take_scratch();
  state_->encode_into(text, options, *scratch, ids);
  state_->return_scratch(std::move(scratch));
  if (options.add_special_tokens) ids.insert(ids.end(), state_->suffix_ids.begin(), state_->suffix_ids.end());
  return ids;
}

std::vector<std::vector<int32_t>> Tokenizer::encode_batch(std::span<const std::string_view> texts,
                                                          const EncodeOptions& options) const {
  std::vector<std::vector<int32_t>> ids(texts.size());
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 16)
  for (size_t i = 0; i < texts.size(); ++i) {
    try {
      ids[i] = encode(texts[i], options);
    } catch (...) {
#pragma omp critical(tokenizer_encode_batch)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const std::string_view token = token_bytes(id);
    if (!skip_special_tokens || !is_special_token(id)) bytes += token;
  }
  return is_valid_utf8(bytes) ? bytes : utf8_sanitize(bytes).text;
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(state_->bytes_end.size());
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  DT_CHECK(id >= 0 && id < vocab_size(), "token id {} is outside the vocabulary, whose ids are 0 to {}", id,
           vocab_size() - 1);
  const auto index = static_cast<size_t>(id);
  const size_t begin = index == 0 ? 0 : state_->bytes_end[index - 1];
  return std::string_view(state_->bytes_of_tokens).substr(begin, state_->bytes_end[index] - begin);
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto found = state_->id_of_token.find(std::string(token));
  return found == state_->id_of_token.end() ? std::nullopt : std::optional(found->second);
}

bool Tokenizer::is_special_token(int32_t id) const {
  const auto found = state_->added_tokens.find(id);
  return found != state_->added_tokens.end() && found->second.special;
}

std::optional<int32_t> Tokenizer::bos_token_id() const {
  return state_->bos_token_id;
}
std::optional<int32_t> Tokenizer::eos_token_id() const {
  return state_->eos_token_id;
}
std::optional<int32_t> Tokenizer::pad_token_id() const {
  return state_->pad_token_id;
}
const std::vector<int32_t>& Tokenizer::prefix_ids() const {
  return state_->prefix_ids;
}
const std::vector<int32_t>& Tokenizer::suffix_ids() const {
  return state_->suffix_ids;
}
const std::string& Tokenizer::tokenizer_json() const {
  return state_->tokenizer_json;
}
const std::string& Tokenizer::tokenizer_config_json() const {
  return state_->tokenizer_config_json;
}
const std::string& Tokenizer::chat_template_jinja() const {
  return state_->chat_template_jinja;
}

void Tokenizer::save(const std::filesystem::path& directory) const {
  write_file(directory / (is_tiktoken_model(tokenizer_json()) ? kTiktokenModel : kTokenizerJson), tokenizer_json());
  if (!tokenizer_config_json().empty()) write_file(directory / "tokenizer_config.json", tokenizer_config_json());
  if (!chat_template_jinja().empty()) write_file(directory / "chat_template.jinja", chat_template_jinja());
}

std::string StreamingDecoder::push(int32_t id) {
  const std::string_view bytes = tokenizer_.token_bytes(id);
  if (skip_special_tokens_ && tokenizer_.is_special_token(id)) return {};
  return stream_.push(bytes);
}

}  // namespace deeptitan

#include "tokenizer/tiktoken_model.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string>
#include <unordered_set>

#include "core/error.h"
#include "core/shown_text.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/byte_level.h"

namespace deeptitan {
namespace {

// The expression of Moonlight's tokenization_moonshot.py and Kimi's tokenization_kimi.py.
constexpr std::string_view kKimiPattern =
    R"([\p{Han}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr const char* kKimiClass = "TikTokenTokenizer";
constexpr int32_t kReservedTokens = 256;
constexpr size_t kLongestToken = 1024;  // bytes

std::optional<std::string> decode_base64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  size_t padding = 0;
  while (padding < 2 && text.ends_with('=')) {
    text.remove_suffix(1);
    ++padding;
  }
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>((bits >> count) & 0xFF);
  }
  return bytes;
}

struct Line {
  std::string bytes;
  int32_t rank;
};

std::optional<Line> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const std::optional<std::string> bytes = decode_base64(line.substr(0, space));
  int32_t rank = -1;
  const std::string_view digits = line.substr(space + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
  const bool is_rank = error == std::errc() && end == digits.data() + digits.size() && rank >= 0;
  if (!bytes || bytes->empty() || bytes->size() > kLongestToken || !is_rank || rank >= BpeModel::kMaxIds) {
    return std::nullopt;
  }
  return Line{*bytes, rank};
}

// The tokens behind the ranks that the configuration does not name.
void add_reserved_tokens(int32_t first, const std::vector<AddedToken>& named, std::vector<AddedToken>& tokens) {
  std::set<int32_t> known;
  for (const AddedToken& token : named) known.insert(token.id);
  for (int32_t id = first; id < first + kReservedTokens; ++id) {
    if (known.contains(id)) continue;
    AddedToken token;
    token.content = fmt::format("<|reserved_token_{}|>", id);
    token.id = id;
    token.special = true;
    token.normalized = false;
    tokens.push_back(std::move(token));
  }
}

}  // namespace

bool is_tiktoken_model(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  return parse_line(line.ends_with('\r') ? line.substr(0, line.size() - 1) : line).has_value();
}

TokenizerDescription parse_tiktoken_model(std::string_view text, const TokenizerConfigDescription& config) {
  DT_CHECK(!config.tokenizer_class || *config.tokenizer_class == kKimiClass,
           "a tiktoken.model is cut as Moonlight and Kimi do, whose tokenizer_class is {}, but tokenizer_config.json "
           "names {}; give a directory with a tokenizer.json",
           kKimiClass, shown(*config.tokenizer_class));
  TokenizerDescription description;
  description.splits.push_back(parse_regex(kKimiPattern));
  description.ignore_merges = true;
  description.merge_ranks = BpeModel::Ranks::kByResult;
  description.has_post_processor = true;
  std::unordered_set<std::string> tokens;
  size_t line_number = 0;
  for (; !text.empty(); text.remove_prefix(std::min(text.find('\n') + 1, text.size()))) {
    ++line_number;
    std::string_view line = text.substr(0, text.find('\n'));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) {
      const std::optional<Line> token = parse_line(line);
      DT_CHECK(token.has_value(), "line {}: expected a token in base64 and its rank, found \"{}\"", line_number,
               shown(line));
      DT_CHECK(tokens.insert(token->bytes).second, "line {}: the token \"{}\" stands in the file twice", line_number,
               shown(line));
      description.vocabulary.emplace_back(byte_level_encode(token->bytes), token->rank);
    }
    if (text.find('\n') == std::string_view::npos) break;
  }
  for (const std::string& token : tokens) {
    for (size_t cut = 1; cut < token.size(); ++cut) {
      std::string left = token.substr(0, cut);
      std::string right = token.substr(cut);
      if (!tokens.contains(left) || !tokens.contains(right)) continue;
      description.merges.emplace_back(byte_level_encode(left), byte_level_encode(right));
    }
  }
  add_reserved_tokens(static_cast<int32_t>(tokens.size()), config.added_tokens, description.added_tokens);
  return description;
}

}  // namespace deeptitan

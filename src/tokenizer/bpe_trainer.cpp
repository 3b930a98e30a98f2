#include "tokenizer/bpe_trainer.h"

#include <algorithm>
#include <exception>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include <omp.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_json.h"

namespace deeptitan {
namespace {

using OrderedJson = nlohmann::ordered_json;
using PieceCounts = std::unordered_map<std::string, int64_t>;

// DeepSeek-V3's tokenizer.json, pre_tokenizer.
constexpr std::string_view kDeepseekV3Patterns[] = {
    R"(\p{N}{1,3})",
    R"([一-龥぀-ゟ゠-ヿ]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
};

PieceCounts count_pieces(std::span<const std::string_view> texts, const PreTokenizer& pre_tokenizer) {
  std::vector<PieceCounts> counts_of_thread(static_cast<size_t>(omp_get_max_threads()));
  std::exception_ptr failure;
#pragma omp parallel
  {
    PieceCounts& counts = counts_of_thread[static_cast<size_t>(omp_get_thread_num())];
    PreTokenizer::Scratch scratch;
    std::vector<PreTokenizer::Piece> pieces;
    std::string sanitized, piece;
#pragma omp for schedule(dynamic, 16)
    for (size_t i = 0; i < texts.size(); ++i) {
      try {
        std::string_view text = texts[i];
        if (!is_valid_utf8(text)) {
          sanitized = utf8_sanitize(text).text;
          text = sanitized;
        }
        pieces.clear();
        pre_tokenizer.split(text, scratch, pieces);
        for (const auto& [begin, end] : pieces) {
          piece.assign(text, begin, end - begin);
          ++counts[piece];
        }
      } catch (...) {
#pragma omp critical(bpe_trainer_count_pieces)
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  PieceCounts total = std::move(counts_of_thread.front());
  for (size_t t = 1; t < counts_of_thread.size(); ++t) {
    for (const auto& [piece, count] : counts_of_thread[t]) total[piece] += count;
  }
  return total;
}

// Counts of pairs, kept up to date merge by merge. What is counted how, down to pairs that overlap and tokens that come
// about in two ways, follows PyPI tokenizers, so that both learn the same merges.
class PairMerger {
 public:
  PairMerger(const PieceCounts& pieces, const std::vector<int32_t>& id_of_byte) {
    words_.reserve(pieces.size());
    for (const auto& [piece, count] : pieces) {
      Word word;
      word.count = count;
      for (const char byte : piece) word.ids.push_back(id_of_byte[static_cast<unsigned char>(byte)]);
      words_.push_back(std::move(word));
    }
    for (size_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& ids = words_[w].ids;
      for (size_t i = 0; i + 1 < ids.size(); ++i) change_count({ids[i], ids[i + 1]}, words_[w].count, w, true);
    }
    queue_changed_pairs();
  }

  struct Pair {
    int32_t left;
    int32_t right;
    bool operator==(const Pair&) const = default;
    bool operator<(const Pair& other) const { return left != other.left ? left < other.left : right < other.right; }
  };

  // The pair to merge next; nothing if none is seen at least `min_frequency` times.
  std::optional<Pair> next_pair(int64_t min_frequency) {
    while (!queue_.empty()) {
      Candidate best = queue_.top();
      queue_.pop();
      const int64_t count = counts_[best.pair];
      if (best.count != count) {
        best.count = count;
        queue_.push(best);
        continue;
      }
      if (count < std::max<int64_t>(min_frequency, 1)) return std::nullopt;
      merging_ = std::move(words_of_candidate_[best.words]);
      words_of_candidate_[best.words].clear();
      return best.pair;
    }
    return std::nullopt;
  }

  // Replaces the pair that next_pair gave by `id` wherever it was found.
  void merge(const Pair& pair, int32_t id) {
    for (const uint32_t w : merging_) merge_in_word(w, pair, id);
    queue_changed_pairs();
  }

 private:
  struct PairHash {
    size_t operator()(const Pair& pair) const {
      const uint64_t key =
          (static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32) | static_cast<uint32_t>(pair.right);
      return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 16);
    }
  };
  struct Word {
    std::vector<int32_t> ids;
    int64_t count;
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    size_t words;  // index into words_of_candidate_
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : other.pair < pair;
    }
  };

  void change_count(const Pair& pair, int64_t change, size_t word, bool appears) {
    counts_[pair] += change;
    if (!appears) return;
    std::vector<uint32_t>& words = appeared_in_[pair];
    if (words.empty() || words.back() != word) words.push_back(static_cast<uint32_t>(word));
  }

  void queue_changed_pairs() {
    for (auto& [pair, words] : appeared_in_) {
      const int64_t count = counts_[pair];
      if (count <= 0) continue;
      queue_.push({count, pair, words_of_candidate_.size()});
      words_of_candidate_.push_back(std::move(words));
    }
    appeared_in_.clear();
  }

  void merge_in_word(uint32_t w, const Pair& pair, int32_t id) {
    std::vector<int32_t>& ids = words_[w].ids;
    const int64_t count = words_[w].count;
    size_t kept = 0;
    for (size_t i = 0; i < ids.size();) {
      if (ids[i] != pair.left || i + 1 >= ids.size() || ids[i + 1] != pair.right) {
        ids[kept++] = ids[i++];
        continue;
      }
      if (kept > 0) {
        change_count({ids[kept - 1], pair.left}, -count, w, false);
        change_count({ids[kept - 1], id}, count, w, true);
      }
      i += 2;
      if (i < ids.size()) {
        change_count({pair.right, ids[i]}, -count, w, false);
        change_count({id, ids[i]}, count, w, true);
      }
      ids[kept++] = id;
    }
    ids.resize(kept);
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, int64_t, PairHash> counts_;
  std::unordered_map<Pair, std::vector<uint32_t>, PairHash> appeared_in_;  // since the last merge
  std::vector<std::vector<uint32_t>> words_of_candidate_;
  std::vector<uint32_t> merging_;
  std::priority_queue<Candidate> queue_;
};

OrderedJson describe_pre_tokenizer(PreTokenization kind) {
  OrderedJson byte_level = {{"type", "ByteLevel"},
                            {"add_prefix_space", false},
                            {"trim_offsets", true},
                            {"use_regex", kind == PreTokenization::kGpt2}};
  if (kind == PreTokenization::kGpt2) return byte_level;
  OrderedJson sequence = {{"type", "Sequence"}, {"pretokenizers", OrderedJson::array()}};
  for (const std::string_view pattern : kDeepseekV3Patterns) {
    sequence["pretokenizers"].push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  sequence["pretokenizers"].push_back(std::move(byte_level));
  return sequence;
}

OrderedJson describe_post_processor(const BpeTrainOptions& options,
                                    const std::unordered_map<std::string, int32_t>& ids) {
  const OrderedJson text_a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const OrderedJson text_b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  OrderedJson result = {{"type", "TemplateProcessing"},
                        {"single", {text_a}},
                        {"pair", {text_a, text_b}},
                        {"special_tokens", OrderedJson::object()}};
  if (options.add_bos_token) {
    const OrderedJson bos = {{"SpecialToken", {{"id", *options.bos_token}, {"type_id", 0}}}};
    result["single"] = {bos, text_a};
    result["pair"] = {bos, text_a, text_b};
    result["special_tokens"][*options.bos_token] = {
        {"id", *options.bos_token}, {"ids", {ids.at(*options.bos_token)}}, {"tokens", {*options.bos_token}}};
  }
  return result;
}

OrderedJson describe_config(const BpeTrainOptions& options) {
  OrderedJson config;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (options.bos_token) config["bos_token"] = *options.bos_token;
  if (options.eos_token) config["eos_token"] = *options.eos_token;
  if (options.pad_token) config["pad_token"] = *options.pad_token;
  config["add_bos_token"] = options.add_bos_token;
  config["add_eos_token"] = false;
  config["clean_up_tokenization_spaces"] = false;
  config["model_max_length"] = 1'000'000'000;
  return config;
}

void check_options(const BpeTrainOptions& options) {
  const auto smallest = static_cast<int64_t>(options.special_tokens.size()) + 256;
  DT_CHECK_USAGE(
      options.vocab_size >= smallest && options.vocab_size < (1 << 22),
      "a vocabulary of {} entries was asked for; it must hold {} special tokens and 256 bytes, so use {} to {}",
      options.vocab_size, options.special_tokens.size(), smallest, (1 << 22) - 1);
  std::unordered_set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    DT_CHECK_USAGE(!token.empty() && is_valid_utf8(token), "a special token must be a non-empty text of valid UTF-8");
    DT_CHECK_USAGE(seen.insert(token).second, "the special token \"{}\" is named twice", token);
    const std::optional<std::string> bytes = byte_level_decode(token);
    DT_CHECK_USAGE(!bytes || bytes->size() > 1,
                   "the special token \"{}\" is also the token of a byte; use a longer one", token);
  }
  for (const auto& name : {options.bos_token, options.eos_token, options.pad_token}) {
    DT_CHECK_USAGE(!name || seen.count(*name) == 1,
                   "\"{}\" is named as bos, eos or pad but is not among the special tokens", name.value_or(""));
  }
  DT_CHECK_USAGE(!options.add_bos_token || options.bos_token, "a bos is to be added, but no bos token is named");
}

}  // namespace

Tokenizer train_bpe(std::span<const std::string_view> texts, const BpeTrainOptions& options) {
  check_options(options);
  std::vector<RegexPattern> patterns;
  if (options.pre_tokenization == PreTokenization::kGpt2) {
    patterns.push_back(parse_regex(kGpt2Pattern));
  } else {
    for (const std::string_view pattern : kDeepseekV3Patterns) patterns.push_back(parse_regex(pattern));
  }
  const PieceCounts pieces = count_pieces(texts, PreTokenizer(patterns, PreTokenizer::Engine::kFastest));

  std::vector<std::string> tokens = options.special_tokens;
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<int32_t>(i));
  const auto add_token = [&](const std::string& token) {
    const auto [found, is_new] = ids.try_emplace(token, static_cast<int32_t>(tokens.size()));
    if (is_new) tokens.push_back(token);
    return found->second;
  };
  // The bytes come in the order of the characters that stand for them.
  std::vector<std::pair<char32_t, size_t>> alphabet;
  for (size_t byte = 0; byte < 256; ++byte) alphabet.emplace_back(byte_level_characters()[byte], byte);
  std::sort(alphabet.begin(), alphabet.end());
  std::vector<int32_t> id_of_byte(256);
  for (const auto& [character, byte] : alphabet) {
    std::string token;
    append_utf8(token, character);
    id_of_byte[byte] = add_token(token);
  }

  OrderedJson merges = OrderedJson::array();
  PairMerger merger(pieces, id_of_byte);
  while (tokens.size() < static_cast<size_t>(options.vocab_size)) {
    const auto pair = merger.next_pair(options.min_frequency);
    if (!pair) break;
    const std::string left = tokens[static_cast<size_t>(pair->left)], right = tokens[static_cast<size_t>(pair->right)];
    merger.merge(*pair, add_token(left + right));
    merges.push_back({left, right});
  }

  OrderedJson added = OrderedJson::array();
  for (const std::string& token : options.special_tokens) {
    added.push_back({{"id", ids.at(token)},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  OrderedJson vocabulary = OrderedJson::object();
  // Appended as to the vector it is: each keyed insertion would search all keys before it.
  auto& entries = static_cast<OrderedJson::object_t::Container&>(vocabulary.get_ref<OrderedJson::object_t&>());
  for (size_t id = 0; id < tokens.size(); ++id) entries.emplace_back(tokens[id], id);
  OrderedJson model = {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false}};
  model["vocab"] = std::move(vocabulary);
  model["merges"] = std::move(merges);

  OrderedJson json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = describe_pre_tokenizer(options.pre_tokenization);
  json["post_processor"] = describe_post_processor(options, ids);
  json["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  json["model"] = std::move(model);
  return Tokenizer::from_json(json.dump(2) + "\n", describe_config(options).dump(2) + "\n");
}

}  // namespace deeptitan

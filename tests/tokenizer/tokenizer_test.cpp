#include "tokenizer/tokenizer.h"

#include <filesystem>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/sample_text.h"

namespace deeptitan {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kText =
    "the cat sat on the mat. the cat ate the rat, 1234 times!\n\n  \u4E2D\u6587 \U0001F600";

const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = train_bpe(std::span(&kText, 1), {.vocab_size = 280, .min_frequency = 1});
  return tokenizer;
}

// The files of small_tokenizer with `change` applied to tokenizer.json and `config` laid over tokenizer_config.json.
template <typename Change>
Tokenizer changed_tokenizer(const Change& change, const Json& config = Json::object()) {
  Json json = Json::parse(small_tokenizer().tokenizer_json());
  change(json);
  Json config_json = Json::parse(small_tokenizer().tokenizer_config_json());
  config_json.merge_patch(config);
  return Tokenizer::from_json(json.dump(), config_json.dump());
}

template <typename Change>
void expect_error(const Change& change, const std::string& message, const Json& config = Json::object()) {
  try {
    changed_tokenizer(change, config);
    FAIL() << "accepted; expected: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), message);
  }
}

void nothing(Json&) {}

TEST(Tokenizer, TextSurvivesTheRoundTrip) {
  for (const std::string& text : sample_texts(5, 500)) {
    const std::vector<int32_t> ids = small_tokenizer().encode(text, {.add_special_tokens = false});
    EXPECT_EQ(small_tokenizer().decode(ids), text);
    EXPECT_EQ(small_tokenizer().encode("", {.add_special_tokens = false}), std::vector<int32_t>{});
  }
}

TEST(Tokenizer, AddsWhatTheFilesSay) {
  const auto encode = [](const Tokenizer& tokenizer) { return tokenizer.encode("t"); };
  const int32_t t = *small_tokenizer().token_id("t");
  EXPECT_EQ(encode(small_tokenizer()), (std::vector<int32_t>{0, t}));
  // The flags of tokenizer_config.json replace the post-processor; without them it holds.
  const auto& same = nothing;
  EXPECT_EQ(encode(changed_tokenizer(same, {{"add_bos_token", false}})), (std::vector<int32_t>{t}));
  EXPECT_EQ(encode(changed_tokenizer(same, {{"add_eos_token", true}})), (std::vector<int32_t>{0, t, 1}));
  const Json no_flags = {{"add_bos_token", nullptr}, {"add_eos_token", nullptr}};  // removes the keys
  EXPECT_EQ(encode(changed_tokenizer(same, no_flags)), (std::vector<int32_t>{0, t}));
  const auto without_post_processor = [](Json& json) { json["post_processor"] = nullptr; };
  EXPECT_EQ(encode(changed_tokenizer(without_post_processor, no_flags)), (std::vector<int32_t>{t}));
}

TEST(Tokenizer, ReadsSpecialTokensInTextOnlyWhereAsked) {
  const Tokenizer& tokenizer = small_tokenizer();
  const std::string text = "a<｜end▁of▁sentence｜>b";
  const int32_t a = *tokenizer.token_id("a"), b = *tokenizer.token_id("b");
  EXPECT_EQ(tokenizer.encode(text), (std::vector<int32_t>{0, a, 1, b}));
  const std::vector<int32_t> plain =
      tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 1), 0);
  EXPECT_EQ(tokenizer.decode(plain), text);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{0, a, 1, b}, true), "ab");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{0, a, 1, b}), "<｜begin▁of▁sentence｜>a<｜end▁of▁sentence｜>b");
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer& tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 280);
  EXPECT_EQ(tokenizer.bos_token_id(), 0);
  EXPECT_EQ(tokenizer.eos_token_id(), 1);
  EXPECT_EQ(tokenizer.pad_token_id(), 2);
  EXPECT_TRUE(tokenizer.is_special_token(0));
  EXPECT_FALSE(tokenizer.is_special_token(5));
  EXPECT_FALSE(tokenizer.is_special_token(-1));
  EXPECT_EQ(tokenizer.token_bytes(*tokenizer.token_id("\u0120the")), " the");
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token_bytes(*tokenizer.token_id("\u00E4")), "\xE4");  // one byte of a character
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  for (const int32_t id : {-1, 280}) {
    try {
      small_tokenizer().decode(std::vector<int32_t>{id});
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.what(), fmt::format("token id {} is outside the vocabulary, whose ids are 0 to 279", id));
    }
  }
}

TEST(Tokenizer, EncodesAcrossThreadsAsAlone) {
  const std::vector<std::string> texts = sample_texts(6, 400);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  std::vector<std::vector<int32_t>> expected;
  expected.reserve(views.size());
  for (const std::string_view text : views) expected.push_back(small_tokenizer().encode(text));
  EXPECT_EQ(small_tokenizer().encode_batch(views), expected);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < views.size(); ++i) wrong[t] += small_tokenizer().encode(views[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, SavesTheFilesItRead) {
  const std::filesystem::path directory = std::filesystem::path(testing::TempDir()) / "tokenizer_test_save";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  const Tokenizer with_template = Tokenizer::from_json(small_tokenizer().tokenizer_json(),
                                                       small_tokenizer().tokenizer_config_json(), "{{ messages }}");
  with_template.save(directory);
  const Tokenizer loaded = Tokenizer::load(directory);
  EXPECT_EQ(loaded.tokenizer_json(), small_tokenizer().tokenizer_json());
  EXPECT_EQ(loaded.tokenizer_config_json(), small_tokenizer().tokenizer_config_json());
  EXPECT_EQ(loaded.chat_template_jinja(), "{{ messages }}");
  EXPECT_EQ(loaded.encode(kText), small_tokenizer().encode(kText));
  // One file alone is a tokenizer without named tokens; its post-processor still adds bos.
  const Tokenizer file_alone = Tokenizer::load(directory / "tokenizer.json");
  EXPECT_EQ(file_alone.bos_token_id(), std::nullopt);
  EXPECT_EQ(file_alone.encode(kText), small_tokenizer().encode(kText));

  write_file(directory / "tokenizer.json", "{\"model\": ");
  try {
    Tokenizer::load(directory);
    FAIL();
  } catch (const Error& error) {
    const std::string expected = (directory / "tokenizer.json").string() + ": not valid JSON: it ends too early";
    EXPECT_EQ(std::string(error.what()).substr(0, expected.size()), expected);
  }
  std::filesystem::remove_all(directory);
}

TEST(Tokenizer, TakesTokensOfTheConfig) {
  const Json token = {{"content", "<x>"}, {"special", true}, {"normalized", false}};
  const Tokenizer tokenizer = changed_tokenizer(nothing, {{"added_tokens_decoder", {{"300", token}}}});
  EXPECT_EQ(tokenizer.encode("<x>"), (std::vector<int32_t>{0, 300}));
  EXPECT_TRUE(tokenizer.is_special_token(300));
}

TEST(Tokenizer, TruncationAndPaddingOfWhoSavedItAreLeft) {
  const Tokenizer tokenizer = changed_tokenizer([](Json& json) {
    json["truncation"] = {{"max_length", 2}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Right"}};
    json["padding"] = {{"strategy", {{"Fixed", 50}}}, {"pad_id", 0}, {"pad_token", "x"}, {"direction", "Right"}};
  });
  EXPECT_EQ(tokenizer.encode(kText), small_tokenizer().encode(kText));
}

TEST(Tokenizer, NamesWhatItDoesNotSupport) {
  const auto set = [](const char* path, const Json& value) {
    return [path, value](Json& json) { json[Json::json_pointer(path)] = value; };
  };
  expect_error(set("/model/type", "Unigram"), "model.type is \"Unigram\"; supported is \"BPE\"");
  expect_error(set("/model/byte_fallback", true),
               "model.byte_fallback is true; supported are byte-level vocabularies, which have it false");
  expect_error(set("/model/dropout", 0.1), "model.dropout is 0.1; supported is null");
  expect_error(set("/model/continuing_subword_prefix", "##"),
               "model.continuing_subword_prefix is \"##\"; supported is null");
  expect_error(set("/model/merges/0", "a b c"),
               "model.merges holds \"a b c\"; a merge must be \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]");
  expect_error(set("/model/vocab/x", -5), "model.vocab = -5 is not a token id; ids must be 0 to 4194303");
  expect_error(set("/model/vocab/x", "y"), "model.vocab must be a token id, not string");
  expect_error(set("/normalizer", {{"type", "NFKC"}}), "normalizer.type is \"NFKC\"; supported are NFC and Sequence");
  expect_error(set("/pre_tokenizer", {{"type", "Metaspace"}}),
               "pre_tokenizer.type is \"Metaspace\"; supported are Split, Digits, ByteLevel and Sequence");
  expect_error(set("/pre_tokenizer", nullptr),
               "pre_tokenizer has no ByteLevel; supported are byte-level vocabularies only");
  expect_error(set("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext"),
               "pre_tokenizer Split.behavior is \"MergedWithNext\"; supported are Isolated and Removed");
  expect_error(set("/pre_tokenizer/pretokenizers/3/add_prefix_space", true),
               "pre_tokenizer ByteLevel.add_prefix_space is true; supported is false");
  expect_error(set("/post_processor", {{"type", "BertProcessing"}}),
               "post_processor.type is \"BertProcessing\"; supported are ByteLevel, TemplateProcessing and Sequence");
  expect_error(set("/decoder", {{"type", "Metaspace"}}), "decoder.type is \"Metaspace\"; supported is ByteLevel");
  expect_error(set("/decoder", nullptr), "tokenizer.json has no \"decoder\"");
  expect_error(set("/added_tokens/0/id", 7),
               "the added token \"<｜begin▁of▁sentence｜>\" has the id 7, but the vocabulary gives it 0");
  expect_error(nothing, "tokenizer_config.json: bos_token is \"<s>\", which is not in the vocabulary",
               {{"bos_token", "<s>"}});
  expect_error(nothing, "tokenizer_config.json.add_bos_token must be true or false, not string",
               {{"add_bos_token", "yes"}});
  const auto without_a_byte = [](Json& json) {
    json["model"]["merges"] = Json::array();
    json["model"]["vocab"].erase("a");
    json["model"]["unk_token"] = "<unk>";
  };
  expect_error(without_a_byte,
               "model.unk_token is \"<unk>\" and some bytes have no token; supported are vocabularies that "
               "hold all 256 bytes");
}

TEST(StreamingDecoder, NeverSplitsACharacter) {
  for (const std::string& text : sample_texts(8, 300)) {
    StreamingDecoder decoder(small_tokenizer(), false);
    std::string joined;
    for (const int32_t id : small_tokenizer().encode(text, {.add_special_tokens = false})) {
      const std::string piece = decoder.push(id);
      EXPECT_TRUE(is_valid_utf8(piece));
      joined += piece;
    }
    EXPECT_EQ(decoder.flush(), "");
    EXPECT_EQ(joined, text);
  }
  StreamingDecoder decoder(small_tokenizer());
  EXPECT_EQ(decoder.push(0), "");  // bos is special
  EXPECT_EQ(decoder.push(*small_tokenizer().token_id("\u00E4")), "");
  EXPECT_EQ(decoder.push(*small_tokenizer().token_id("t")), "\uFFFDt");
  EXPECT_EQ(decoder.push(*small_tokenizer().token_id("\u00E4")), "");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
}

TEST(TrainBpe, StopsWhereNoPairIsFrequentEnough) {
  const std::string_view text = "ab ab ab";
  const Tokenizer tokenizer = train_bpe(std::span(&text, 1), {.vocab_size = 1000});
  EXPECT_EQ(tokenizer.vocab_size(), 5 + 256 + 2);  // "ab" and " ab"
  EXPECT_EQ(train_bpe({}, {.vocab_size = 1000}).vocab_size(), 5 + 256);
}

TEST(TrainBpe, SameTextsGiveTheSameFiles) {
  const std::vector<std::string> texts = sample_texts(9, 500);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::vector<std::string_view> backwards(views.rbegin(), views.rend());
  const BpeTrainOptions options = {.vocab_size = 600, .pre_tokenization = PreTokenization::kGpt2};
  EXPECT_EQ(train_bpe(views, options).tokenizer_json(), train_bpe(backwards, options).tokenizer_json());
}

TEST(TrainBpe, ReplacesWhatIsNotUtf8) {
  const std::string_view text = "\xFF\xFF\xFF";
  EXPECT_EQ(train_bpe(std::span(&text, 1), {.vocab_size = 1000, .min_frequency = 3}).token_id("ï¿½"),
            std::optional<int32_t>(262));
}

TEST(TrainBpe, NamesWhatIsWrongWithTheOptions) {
  const auto expect_usage_error = [](const BpeTrainOptions& options, const char* message) {
    try {
      train_bpe({}, options);
      FAIL() << message;
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), message);
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    }
  };
  expect_usage_error({.vocab_size = 260},
                     "a vocabulary of 260 entries was asked for; it must hold 5 special tokens and 256 "
                     "bytes, so use 261 to 4194303");
  BpeTrainOptions options;
  options.special_tokens.push_back("<｜User｜>");
  expect_usage_error(options, "the special token \"<｜User｜>\" is named twice");
  options.special_tokens.back() = "a";
  expect_usage_error(options, "the special token \"a\" is also the token of a byte; use a longer one");
  options.special_tokens.pop_back();
  options.eos_token = "<eos>";
  expect_usage_error(options, "\"<eos>\" is named as bos, eos or pad but is not among the special tokens");
}

}  // namespace
}  // namespace deeptitan

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json.h"

namespace deeptitan {
namespace {

using Json = nlohmann::json;

const std::string kGolden = std::string(DT_TEST_DATA_DIR) + "/golden/tokenizer/";

// A small tokenizer whose text is cut by one Split alone, so that its description can be read.
TokenizerDescription with_split(const Json& pattern, const std::string& behavior, bool invert) {
  const std::string_view text = "a b";
  Json json = Json::parse(train_bpe(std::span(&text, 1), {.vocab_size = 262, .min_frequency = 1}).tokenizer_json());
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}};
  return parse_tokenizer_json(json.dump());
}

TEST(Split, CutsAsTokenizersDoes) {
  const Json golden = Json::parse(read_file(kGolden + "splits.json"));
  for (const Json& one : golden["cases"]) {
    const TokenizerDescription description = with_split(one["pattern"], one["behavior"], one["invert"]);
    for (const auto engine : {PreTokenizer::Engine::kFastest, PreTokenizer::Engine::kPcre2}) {
      const PreTokenizer pre_tokenizer(description.splits, engine);
      PreTokenizer::Scratch scratch;
      for (size_t i = 0; i < golden["texts"].size(); ++i) {
        const std::string text = golden["texts"][i];
        std::vector<PreTokenizer::Piece> pieces;
        pre_tokenizer.split(text, scratch, pieces);
        std::vector<std::string> cut;
        for (const auto& [begin, end] : pieces) cut.push_back(text.substr(begin, end - begin));
        EXPECT_EQ(Json(cut), one["pieces"][i]) << one["pattern"] << " " << one["behavior"] << " " << one["invert"];
      }
    }
  }
}

TEST(Tiktoken, EqualsTiktokenOnKimisKindOfModel) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden + "kimi");
  const Json golden = Json::parse(read_file(kGolden + "kimi/expected.json"));
  for (const Json& one : golden["cases"]) {
    const std::string text = one["text"];
    const std::vector<int32_t> ids = tokenizer.encode(text);
    EXPECT_EQ(Json(ids), one["ids"]) << text;
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
  EXPECT_EQ(tokenizer.vocab_size(), 676);
  EXPECT_EQ(tokenizer.bos_token_id(), 420);
  EXPECT_EQ(tokenizer.eos_token_id(), 421);
  EXPECT_TRUE(tokenizer.is_special_token(430));
  EXPECT_TRUE(tokenizer.prefix_ids().empty());
}

TEST(Tiktoken, IsSavedAsItWasRead) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = Tokenizer::load(kGolden + "kimi");
  tokenizer.save(folder.path());
  EXPECT_EQ(read_file(folder.path() / "tiktoken.model"), read_file(kGolden + "kimi/tiktoken.model"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "tokenizer.json"));
  EXPECT_EQ(Tokenizer::load(folder.path()).encode("Hello aaaa"), tokenizer.encode("Hello aaaa"));
}

TEST(Tiktoken, NamesTheLineAndTheOtherTokenizer) {
  const std::string model = read_file(kGolden + "kimi/tiktoken.model");
  EXPECT_EQ(message_of([&] { Tokenizer::from_json(model + "YWJj\n"); }),
            "line 421: expected a token in base64 and its rank, found \"YWJj\"");
  EXPECT_EQ(message_of([&] { Tokenizer::from_json(model + "AA== 900\n"); }),
            "line 421: the token \"AA== 900\" stands in the file twice");
  EXPECT_EQ(message_of([&] { Tokenizer::from_json(model, R"({"tokenizer_class": "QWenTokenizer"})"); }),
            "a tiktoken.model is cut as Moonlight and Kimi do, whose tokenizer_class is TikTokenTokenizer, but "
            "tokenizer_config.json names QWenTokenizer; give a directory with a tokenizer.json");
}

TEST(Regex, ALookaroundOfUnboundedLengthIsRefused) {
  for (const char* pattern : {"a(?=.*b)", "(?!a+b)c", "(?=(?:ab)*)a", "(?<!a{2,})b", "(?=a|(?:b(?!c)d*))e"}) {
    EXPECT_EQ(message_of([&] { parse_regex(pattern); }),
              std::string("regular expression ") + pattern +
                  ": a lookaround of unbounded length is not supported; use classes, quantifiers, groups, lookaround, "
                  "^ and $");
  }
  for (const char* pattern : {"a+(?=b)", "(?:(?=a)b)+", "\\s+(?!\\S)", "(?=a{1,5})b*"})
    EXPECT_NO_THROW(parse_regex(pattern));
}

}  // namespace
}  // namespace deeptitan

// Against PyPI tokenizers: fixtures and hashes from tests/golden/tokenizer.py, texts from sample_text.h.
#include <algorithm>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tokenizer/bpe_trainer.h"
#include "tokenizer/sample_text.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {
namespace {

constexpr uint64_t kTrainSeed = 1, kTestSeed = 2;
constexpr size_t kTrainCount = 20000, kBlocks = 100, kBlock = 1000;
constexpr uint64_t kHashStart = 0xCBF29CE484222325u;

const std::string kDirectory = std::string(DT_TEST_DATA_DIR) + "/golden/tokenizer/";

const std::vector<std::string>& test_texts() {
  static const std::vector<std::string> texts = sample_texts(kTestSeed, kBlocks * kBlock);
  return texts;
}

nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

template <typename Words>
uint64_t hash_words(uint64_t hash, const Words& words) {
  const auto add = [&](uint64_t word) { hash = (hash ^ word) * 0x100000001B3u; };
  add(words.size());
  for (const auto word : words) add(static_cast<uint64_t>(word));
  return hash;
}

std::string hex(uint64_t value) {
  char text[17];
  snprintf(text, sizeof text, "%016lx", static_cast<unsigned long>(value));
  return text;
}

class GoldenTokenizer : public testing::TestWithParam<std::string> {
 protected:
  GoldenTokenizer()
      : tokenizer_(Tokenizer::load(kDirectory + GetParam() + ".tokenizer.json")),
        expected_(read_json(kDirectory + GetParam() + ".expected.json")) {}

  void expect_same(const char* key, const EncodeOptions& options) {
    for (size_t block = 0; block < kBlocks; ++block) {
      const std::vector<std::string_view> texts(test_texts().begin() + static_cast<ptrdiff_t>(block * kBlock),
                                                test_texts().begin() + static_cast<ptrdiff_t>((block + 1) * kBlock));
      uint64_t hash = kHashStart;
      for (const std::vector<int32_t>& ids : tokenizer_.encode_batch(texts, options)) hash = hash_words(hash, ids);
      EXPECT_EQ(hex(hash), expected_[key][block])
          << "texts " << block * kBlock << " and the " << kBlock << " from there";
    }
  }

  Tokenizer tokenizer_;
  nlohmann::json expected_;
};

TEST_P(GoldenTokenizer, EncodesAsPyPiTokenizers) {
  expect_same("with_special", {});
}

TEST_P(GoldenTokenizer, EncodesSpecialTokensAsPlainText) {
  expect_same("plain", {.add_special_tokens = false, .parse_special_tokens = false});
}

TEST_P(GoldenTokenizer, DecodesAsPyPiTokenizers) {
  uint64_t hash = kHashStart;
  for (size_t i = 0; i < 10 * kBlock; ++i) {
    const std::vector<int32_t> ids = tokenizer_.encode(test_texts()[i]);
    const auto cut = std::span(ids).subspan(ids.size() / 3);
    for (const bool skip_special_tokens : {false, true}) {
      const std::string text = tokenizer_.decode(cut, skip_special_tokens);
      hash = hash_words(hash, std::span(reinterpret_cast<const unsigned char*>(text.data()), text.size()));
    }
  }
  EXPECT_EQ(hex(hash), expected_["decoded"]);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenTokenizer, testing::Values("deepseek_v3", "deepseek_v2", "options"),
                         [](const auto& suite) { return suite.param; });

TEST(TrainBpe, LearnsTheMergesThatPyPiTokenizersLearns) {
  const std::vector<std::string> texts = sample_texts(kTrainSeed, kTrainCount);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const nlohmann::json expected = read_json(kDirectory + "deepseek_v3.tokenizer.json");
  BpeTrainOptions options;
  options.vocab_size = 2000;
  options.special_tokens.resize(3);
  options.min_frequency = 0;
  const nlohmann::json trained = nlohmann::json::parse(train_bpe(views, options).tokenizer_json());
  EXPECT_EQ(trained["model"]["merges"], expected["model"]["merges"]);
  EXPECT_EQ(trained["model"]["vocab"], expected["model"]["vocab"]);
  EXPECT_EQ(trained["pre_tokenizer"]["pretokenizers"][2]["pattern"],
            expected["pre_tokenizer"]["pretokenizers"][2]["pattern"]);
}

}  // namespace
}  // namespace deeptitan

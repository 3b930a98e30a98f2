#include "tokenizer/bpe_model.h"

#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"

namespace deeptitan {
namespace {

using Vocabulary = std::vector<std::pair<std::string, int32_t>>;
using Merges = std::vector<std::pair<std::string, std::string>>;

std::vector<int32_t> encode(const BpeModel& model, const std::string& piece) {
  BpeModel::Scratch scratch;
  std::vector<int32_t> ids;
  model.encode_piece(piece, scratch, ids);
  return ids;
}

// By the definition: the first merge in the list that applies anywhere, at its leftmost place, until none does.
std::vector<std::string> merge_by_definition(std::vector<std::string> tokens, const Merges& merges) {
  for (bool merged = true; merged;) {
    merged = false;
    for (const auto& [left, right] : merges) {
      for (size_t i = 0; i + 1 < tokens.size() && !merged; ++i) {
        if (tokens[i] != left || tokens[i + 1] != right) continue;
        tokens[i] += right;
        tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(i) + 1);
        merged = true;
      }
      if (merged) break;
    }
  }
  return tokens;
}

TEST(BpeModel, MergesAsDefinedWhateverTheLength) {
  std::mt19937 random(20260119);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    Merges merges;
    for (int i = 0; i < 40; ++i) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      merges.emplace_back(left, right);  // the same token may come about in several ways
      if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) tokens.push_back(left + right);
    }
    // Of a merge that is listed twice the last place counts.
    for (size_t i = 0; i < merges.size();) {
      const bool again =
          std::find(merges.begin() + static_cast<ptrdiff_t>(i) + 1, merges.end(), merges[i]) != merges.end();
      if (again) {
        merges.erase(merges.begin() + static_cast<ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
    Vocabulary vocabulary;
    for (size_t i = 0; i < tokens.size(); ++i) vocabulary.emplace_back(tokens[i], static_cast<int32_t>(i));
    const BpeModel model(vocabulary, merges, false);
    for (const size_t length : {0u, 1u, 2u, 7u, 31u, 32u, 33u, 64u, 65u, 200u}) {
      std::vector<std::string> bytes(length);
      std::string piece;
      for (std::string& byte : bytes) piece += byte = tokens[random() % 3];
      std::vector<int32_t> expected;
      for (const std::string& token : merge_by_definition(bytes, merges)) {
        expected.push_back(static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), token) - tokens.begin()));
      }
      ASSERT_EQ(encode(model, piece), expected) << piece;
    }
  }
}

TEST(BpeModel, RemembersPiecesWithoutMixingThemUp) {
  const BpeModel model({{"a", 0}, {"b", 1}, {"ab", 2}}, {{"a", "b"}}, false);
  BpeModel::Scratch scratch;
  std::mt19937 random(7);
  for (int i = 0; i < 200'000; ++i) {  // more distinct pieces than are remembered
    std::string piece;
    std::vector<int32_t> expected;
    for (size_t length = 1 + random() % 18; length > 0; --length) {
      const bool both = random() % 2 == 0;
      piece += both ? "ab" : "b";
      expected.push_back(both ? 2 : 1);
    }
    std::vector<int32_t> ids = {99};
    model.encode_piece(piece, scratch, ids);
    expected.insert(expected.begin(), 99);
    ASSERT_EQ(ids, expected);
  }
}

TEST(BpeModel, LeavesOutBytesWithoutAToken) {
  const BpeModel model({{"a", 0}, {"b", 1}, {"ab", 2}}, {{"a", "b"}}, false);
  EXPECT_FALSE(model.covers_all_bytes());
  EXPECT_EQ(encode(model, "zazbz"), (std::vector<int32_t>{2}));
  EXPECT_EQ(encode(model, std::string(100, 'z')), (std::vector<int32_t>{}));
}

TEST(BpeModel, IgnoringMergesTakesTheWholePieceFirst) {
  const Vocabulary vocabulary = {{"a", 0}, {"b", 1}, {"ab", 2}, {"abab", 3}};
  EXPECT_EQ(encode(BpeModel(vocabulary, {{"a", "b"}}, false), "abab"), (std::vector<int32_t>{2, 2}));
  EXPECT_EQ(encode(BpeModel(vocabulary, {{"a", "b"}}, true), "abab"), (std::vector<int32_t>{3}));
}

void expect_error(const Vocabulary& vocabulary, const Merges& merges, const char* message) {
  try {
    const BpeModel model(vocabulary, merges, false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), message);
  }
}

TEST(BpeModel, NamesWhatIsWrongWithAVocabulary) {
  expect_error({{"a", 0}, {"b", 0}}, {}, "the vocabulary gives id 0 to two tokens, one of them \"b\"");
  expect_error({{"a", -1}}, {}, "the vocabulary gives token \"a\" the id -1; ids must be 0 to 4194303");
  expect_error({{"a", 1 << 22}}, {}, "the vocabulary gives token \"a\" the id 4194304; ids must be 0 to 4194303");
  expect_error({{"a", 0}}, {{"a", "b"}}, "a merge needs the token \"b\", which is not in the vocabulary");
  expect_error({{"a", 0}, {"b", 1}}, {{"a", "b"}}, "a merge needs the token \"ab\", which is not in the vocabulary");
}

}  // namespace
}  // namespace deeptitan

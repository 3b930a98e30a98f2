#include "data/document_packing.h"

#include <map>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

using Ids = std::vector<int32_t>;

/// Conversations of given lengths. Token t of conversation d is 100 d + t; those from `answer` tokens on are learnt.
struct Conversations {
  Conversations(const std::vector<int64_t>& lengths, int64_t answer) {
    for (size_t d = 0; d < lengths.size(); ++d) {
      for (int64_t t = 0; t < lengths[d]; ++t) {
        if (tokens.size() % 8 == 0) in_loss.push_back(0);
        if (t >= answer) in_loss.back() |= static_cast<uint8_t>(1u << (tokens.size() % 8));
        tokens.push_back(static_cast<int32_t>(100 * d) + static_cast<int32_t>(t));
      }
      starts.push_back(static_cast<int64_t>(tokens.size()));
    }
  }
  TokenRange range() const { return {tokens, starts, 0, static_cast<int64_t>(tokens.size()), in_loss}; }

  Ids tokens;
  std::vector<int64_t> starts = {0};
  std::vector<uint8_t> in_loss;
};

int64_t one_byte(int32_t /*token*/) {
  return 1;
}

PackedBatch batch_of(const DocumentPacking& packing, int64_t length) {
  PackedBatch batch;
  batch.reset(packing.sequences(), length);
  for (int64_t i = 0; i < packing.sequences(); ++i) packing.append(i, 9, one_byte, &batch);
  return batch;
}

TEST(DocumentPacking, WholeConversationsSideBySide) {
  const Conversations chats({4, 3, 3, 2}, 2);
  const DocumentPacking packing(chats.range(), 6, std::nullopt);
  const PackedBatch batch = batch_of(packing, 6);
  // The second finds no room beside the first; the fourth does.
  EXPECT_EQ(batch.tokens, (Ids{0, 1, 2, 3, 9, 9, 100, 101, 102, 200, 201, 202}));
  EXPECT_EQ(batch.targets, (Ids{-1, 2, 3, -1, -1, -1, -1, 102, -1, -1, 202, -1}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 4, 6, 9, 12}));
  EXPECT_EQ(batch.target_count, 4);
  EXPECT_EQ(batch.target_bytes, 4);
  EXPECT_EQ(packing.statistics().documents, 3);
  EXPECT_EQ(packing.statistics().left_out, 1);  // the last has a question only
  EXPECT_EQ(packing.statistics().tokens, 10);
}

TEST(DocumentPacking, ALongConversationIsCutAndItsLastTargetKept) {
  const Conversations chats({9, 5, 4}, 3);
  const DocumentPacking packing(chats.range(), 4, std::nullopt);
  const PackedBatch batch = batch_of(packing, 4);
  EXPECT_EQ(batch.tokens, (Ids{0, 1, 2, 3, 100, 101, 102, 103, 200, 201, 202, 203}));
  EXPECT_EQ(batch.targets, (Ids{-1, -1, 3, 4, -1, -1, 103, 104, -1, -1, 203, -1}));
  EXPECT_EQ(packing.statistics().cut, 2);
  EXPECT_EQ(packing.statistics().longest, 9);
}

TEST(DocumentPacking, WithoutAnAnswerInTheFirstTokensAConversationIsLeftOut) {
  const Conversations chats({9, 5}, 4);
  EXPECT_EQ(DocumentPacking(chats.range(), 4, std::nullopt).sequences(), 2);  // token 4 is a target
  const DocumentPacking packing(chats.range(), 3, std::nullopt);
  EXPECT_EQ(packing.sequences(), 0);
  EXPECT_EQ(packing.statistics().left_out, 2);
  EXPECT_EQ(packing.statistics().longest, 9);
}

TEST(DocumentPacking, APartOfAFileKeepsToItsConversations) {
  const Conversations chats({3, 4, 5, 3}, 1);
  TokenRange range = chats.range();
  range.first = 3;
  range.end = 12;
  EXPECT_EQ(batch_of(DocumentPacking(range, 9, std::nullopt), 9).tokens,
            (Ids{100, 101, 102, 103, 200, 201, 202, 203, 204}));
  range.first = 12;
  EXPECT_EQ(DocumentPacking(range, 9, std::nullopt).sequences(), 0);
}

TEST(DocumentPacking, EveryConversationOnceInAnOrderThatTheKeyDecides) {
  std::vector<int64_t> lengths;
  for (int64_t d = 0; d < 500; ++d) lengths.push_back(2 + d * 7 % 40);
  const Conversations chats(lengths, 1);
  const DocumentPacking packing(chats.range(), 64, 5);
  const PackedBatch batch = batch_of(packing, 64);
  std::map<int32_t, int> parts;
  for (size_t t = 0; t < batch.tokens.size(); ++t) {
    if (batch.positions[t] == 0 && batch.tokens[t] != 9) ++parts[batch.tokens[t] / 100];
  }
  EXPECT_EQ(parts.size(), 500u);
  for (const auto& [conversation, count] : parts) EXPECT_EQ(count, 1) << conversation;
  EXPECT_EQ(batch.target_count, packing.statistics().tokens - 500);
  // 500 conversations of 2 to 41 tokens fill sequences of 64 well.
  EXPECT_GT(packing.statistics().tokens, packing.sequences() * 64 * 95 / 100);
  EXPECT_EQ(batch_of(DocumentPacking(chats.range(), 64, 5), 64).tokens, batch.tokens);
  EXPECT_NE(batch_of(DocumentPacking(chats.range(), 64, 6), 64).tokens, batch.tokens);
}

}  // namespace
}  // namespace deeptitan

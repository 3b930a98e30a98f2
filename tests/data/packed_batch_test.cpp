#include "data/packed_batch.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kEos = 9;

/// Documents of 3, 1, 1 and 5 tokens, each with its end of text: "0 1 9", "9"-less ones of length one, and so on.
class PackedBatchTest : public ::testing::Test {
 protected:
  const Ids tokens_ = {10, 11, kEos, kEos, kEos, 20, 21, 22, 23, kEos};
  const std::vector<int64_t> starts_ = {0, 3, 4, 5, 10};
  const TokenRange all_ = {tokens_, starts_, 0, 10};
  const TokenBytes bytes_ = [](int32_t token) { return token == kEos ? 0 : 2; };
};

TEST_F(PackedBatchTest, TargetsAndPositionsStayInsideDocuments) {
  PackedBatch batch;
  batch.reset(1, 8);
  append_sequence(all_, 0, kEos, bytes_, &batch);
  EXPECT_EQ(batch.tokens, (Ids{10, 11, 9, 9, 9, 20, 21, 22}));
  EXPECT_EQ(batch.targets, (Ids{11, 9, -1, -1, -1, 21, 22, 23}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 0, 0, 1, 2}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 3, 4, 5, 8}));
  EXPECT_EQ(batch.target_count, 5);
  EXPECT_EQ(batch.target_bytes, 8);
  EXPECT_EQ(batch.sequences, 1);
}

TEST_F(PackedBatchTest, ASequenceThatBeginsInsideADocumentBeginsItsPositionsThere) {
  PackedBatch batch;
  batch.reset(2, 3);
  append_sequence(all_, 1, kEos, bytes_, &batch);
  append_sequence(all_, 6, kEos, bytes_, &batch);
  EXPECT_EQ(batch.tokens, (Ids{11, 9, 9, 21, 22, 23}));
  EXPECT_EQ(batch.targets, (Ids{9, -1, -1, 22, 23, 9}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 0, 0, 1, 2}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 2, 3, 6}));
}

TEST_F(PackedBatchTest, TheEndIsPaddedWithoutTargets) {
  PackedBatch batch;
  batch.reset(1, 5);
  append_sequence(all_, 8, kEos, bytes_, &batch);
  EXPECT_EQ(batch.tokens, (Ids{23, 9, 9, 9, 9}));
  EXPECT_EQ(batch.targets, (Ids{9, -1, -1, -1, -1}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 0, 1, 2}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 2, 5}));
}

TEST_F(PackedBatchTest, AWholeSequenceOfPaddingIsAPartOfItsOwn) {
  PackedBatch batch;
  batch.reset(2, 3);
  append_sequence(all_, 5, kEos, bytes_, &batch);
  append_padding_sequence(kEos, &batch);
  EXPECT_EQ(batch.sequences, 2);
  EXPECT_EQ(batch.tokens, (Ids{20, 21, 22, 9, 9, 9}));
  EXPECT_EQ(batch.targets, (Ids{21, 22, 23, -1, -1, -1}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 3, 6}));
  EXPECT_EQ(batch.target_count, 3);
}

TEST_F(PackedBatchTest, ARangeThatEndsInsideADocumentGivesNoTargetBeyondIt) {
  TokenRange range = all_;
  range.end = 7;
  PackedBatch batch;
  batch.reset(1, 2);
  append_sequence(range, 5, kEos, bytes_, &batch);
  EXPECT_EQ(batch.targets, (Ids{21, -1}));
}

TEST_F(PackedBatchTest, OutsideTheRangeIsAnError) {
  PackedBatch batch;
  batch.reset(1, 2);
  expect_runtime_error([&] { append_sequence(all_, 10, kEos, bytes_, &batch); },
                       "a sequence from token 10; expected one from 0 to 9");
}

TEST_F(PackedBatchTest, ResetForgetsWhatWasThere) {
  PackedBatch batch;
  batch.reset(1, 8);
  append_sequence(all_, 0, kEos, bytes_, &batch);
  batch.reset(1, 2);
  EXPECT_EQ(batch.tokens_count(), 0);
  EXPECT_EQ(batch.target_count, 0);
  EXPECT_EQ(batch.document_offsets, (Ids{0}));
}

TEST_F(PackedBatchTest, TargetsThatDoNotCountHaveNone) {
  const std::vector<uint8_t> in_loss = {0b10000100, 0b00000011};  // tokens 2, 7, 8 and 9
  TokenRange range = all_;
  range.in_loss = in_loss;
  PackedBatch batch;
  batch.reset(1, 10);
  append_sequence(range, 0, kEos, bytes_, &batch);
  EXPECT_EQ(batch.tokens, tokens_);
  EXPECT_EQ(batch.targets, (Ids{-1, 9, -1, -1, -1, -1, 22, 23, 9, -1}));
  EXPECT_EQ(batch.target_count, 4);
  EXPECT_EQ(batch.target_bytes, 4);  // the ends of text, which are also what padding is made of, count as tokens
}

TEST_F(PackedBatchTest, PiecesAreParts) {
  PackedBatch batch;
  batch.reset(2, 6);
  append_pieces(all_, std::vector<DocumentPiece>{{5, 8}, {0, 2}}, kEos, bytes_, &batch);
  append_pieces(all_, std::vector<DocumentPiece>{{0, 3}, {3, 4}, {8, 10}}, kEos, bytes_, &batch);
  EXPECT_EQ(batch.tokens, (Ids{20, 21, 22, 10, 11, 9, 10, 11, 9, 9, 23, 9}));
  EXPECT_EQ(batch.targets, (Ids{21, 22, 23, 11, 9, -1, 11, 9, -1, -1, 9, -1}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 1, 0, 0, 1, 2, 0, 0, 1}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 3, 5, 6, 9, 10, 12}));
  EXPECT_EQ(batch.sequences, 2);
  expect_runtime_error(
      [&] {
        append_pieces(all_, std::vector<DocumentPiece>{{0, 3}, {5, 9}}, kEos, bytes_, &batch);
      },
      "pieces of 7 tokens in a sequence of 6");
}

// A question's tokens have no target, but the module that predicts one token further still reads what follows them.
TEST_F(PackedBatchTest, ShiftedTargetsReadTheTokenBehindAndLearnTheOneAfter) {
  const std::vector<uint8_t> in_loss = {0b10000100, 0b00000011};
  TokenRange range = all_;
  range.in_loss = in_loss;
  PackedBatch batch;
  batch.reset(1, 9);
  append_sequence(range, 0, kEos, bytes_, &batch);
  Ids next_ids(9), next_targets(9);
  shift_targets(batch, next_ids, next_targets);
  EXPECT_EQ(batch.targets, (Ids{-1, 9, -1, -1, -1, -1, 22, 23, 9}));
  EXPECT_EQ(next_ids, (Ids{11, 9, 0, 0, 0, 21, 22, 23, 9}));
  EXPECT_EQ(next_targets, (Ids{9, -1, -1, -1, -1, 22, 23, 9, -1}));
}

}  // namespace
}  // namespace deeptitan

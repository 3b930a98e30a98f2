#include "data/packed_sampler.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

#include "core/log.h"
#include "data/letter_encoder.h"
#include "data/source_plan.h"
#include "data/synthetic_source.h"
#include "data/validation_batches.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

class PackedSamplerTest : public ::testing::Test {
 protected:
  PackedSamplerTest() { set_log_quiet(true); }

  void add(const std::string& name, const std::string& text, double weight, double validation_fraction = 0.0) {
    TextSource source;
    source.path = folder_.write(name + ".txt", text);
    source.weight = weight;
    datasets_.emplace_back(source, validation_fraction, letter_encoder(), folder_.path() / "cache");
  }

  PackedSampler sampler(int64_t sequence_length, int64_t seed = 1) const {
    return PackedSampler(datasets_, sequence_length, seed, letter_encoder());
  }

  TemporaryFolder folder_;
  std::vector<TokenDataset> datasets_;
};

/// A text in which every three neighbouring bytes occur once.
std::string counting_text(int length) {
  std::string text;
  for (int i = 0; static_cast<int>(text.size()) < length; ++i) {
    text += static_cast<char>('a' + i / 26 % 26);
    text += static_cast<char>('a' + i % 26);
    text += ' ';
  }
  text.resize(static_cast<size_t>(length));
  return text;
}

TEST_F(PackedSamplerTest, APassReadsEveryWindowOnce) {
  add("a", counting_text(1000), 1);
  PackedSampler s = sampler(10);
  PackedBatch batch;
  std::set<std::vector<int32_t>> windows;
  int64_t passes_seen = 0;
  while (s.position().sources[0].epoch == 0) {
    s.next_batch(1, &batch);
    EXPECT_TRUE(windows.insert(batch.tokens).second);
    ++passes_seen;
  }
  EXPECT_GE(passes_seen, 99);  // 1001 tokens, at most 9 of them before the first window
  EXPECT_LE(passes_seen, 100);
  // The next pass cuts elsewhere.
  s.next_batch(1, &batch);
  EXPECT_FALSE(windows.contains(batch.tokens));
}

// A run that ends with a pass says nothing of the next.
TEST_F(PackedSamplerTest, APassIsSaidWithTheFirstSequenceThatIsTakenOfIt) {
  add("a", counting_text(1000), 1);
  set_log_quiet(false);
  ::testing::internal::CaptureStderr();
  PackedSampler s(datasets_, 10, 1, letter_encoder(), {.steps = 101, .sequences_per_step = 1});
  PackedBatch batch;
  std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("1.02 passes over them are planned"), std::string::npos) << said;
  ::testing::internal::CaptureStderr();
  while (s.position().sources[0].epoch == 0) s.next_batch(1, &batch);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ::testing::internal::CaptureStderr();
  s.next_batch(1, &batch);
  s.next_batch(1, &batch);
  said = ::testing::internal::GetCapturedStderr();
  set_log_quiet(true);
  EXPECT_EQ(said, "a: pass 2 of 2 begins\n");
}

TEST_F(PackedSamplerTest, SequencesAreInShuffledOrderThatTheSeedDecides) {
  add("a", counting_text(2000), 1);
  PackedBatch first, second, other;
  PackedSampler a = sampler(10, 1), b = sampler(10, 1), c = sampler(10, 2);
  a.next_batch(50, &first);
  b.next_batch(50, &second);
  c.next_batch(50, &other);
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_NE(first.tokens, other.tokens);
}

TEST_F(PackedSamplerTest, WeightsAreKeptAtEveryMoment) {
  add("a", std::string(500, 'a'), 3);
  add("b", std::string(500, 'b'), 1);
  add("c", std::string(500, 'c'), 0.5);
  PackedSampler s = sampler(7);
  PackedBatch batch;
  std::map<int32_t, int> count;
  for (int n = 1; n <= 900; ++n) {
    s.next_batch(1, &batch);
    ++count[batch.tokens[0]];
    ASSERT_NEAR(count['a'], n * 3 / 4.5, 1.5);
    ASSERT_NEAR(count['b'], n * 1 / 4.5, 1.5);
    ASSERT_NEAR(count['c'], n * 0.5 / 4.5, 1.5);
  }
}

TEST_F(PackedSamplerTest, ASourceGivesNoMoreThanItsPasses) {
  TextSource limited;
  limited.path = folder_.write("small.txt", std::string(70, 'a'));  // at least 9 sequences of 7 tokens
  limited.max_passes = 2;
  datasets_.emplace_back(limited, 0.0, letter_encoder(), folder_.path() / "cache");
  add("large", std::string(5000, 'b'), 1);
  PackedSampler s(datasets_, 7, 1, letter_encoder(), RunLength{100, 4});
  PackedBatch batch;
  for (int step = 0; step < 100; ++step) {
    s.next_batch(4, &batch);
    // Spread over the whole run, not all at its beginning.
    EXPECT_LE(s.position().sources[0].drawn, 18 * (step + 1) / 100 + 1);
  }
  EXPECT_EQ(s.position().sources[0].drawn, 18);
  EXPECT_LE(s.position().sources[0].epoch, 2);
  EXPECT_EQ(s.position().sources[1].drawn, 382);
}

TEST(DivideRun, LimitsGoToTheOthersByTheirWeights) {
  const std::vector<SourceDemand> demands = {{"a", 2, 1.5, 10}, {"b", 1, 0, 1000}, {"c", 3, 0, 1000}};
  const std::vector<SourceShare> shares = divide_run(demands, 100, 10);
  EXPECT_DOUBLE_EQ(shares[0].share, 0.15);
  EXPECT_DOUBLE_EQ(shares[1].share, 0.85 / 4);
  EXPECT_DOUBLE_EQ(shares[2].share, 0.85 * 3 / 4);
  EXPECT_DOUBLE_EQ(shares[0].passes, 1.5);
  EXPECT_DOUBLE_EQ(shares[1].passes, 100 * 0.85 / 4 / 1000);
  // A limit that takes from another which has one too.
  const std::vector<SourceDemand> both = {{"a", 9, 1, 10}, {"b", 1, 1, 20}, {"c", 1, 0, 100}};
  const std::vector<SourceShare> second = divide_run(both, 100, 10);
  EXPECT_DOUBLE_EQ(second[0].share, 0.1);
  EXPECT_DOUBLE_EQ(second[1].share, 0.2);
  EXPECT_DOUBLE_EQ(second[2].share, 0.7);
}

TEST(DivideRun, WithoutLimitsOrLengthWeightsAlone) {
  const std::vector<SourceDemand> demands = {{"a", 3, 1, 10}, {"b", 1, 1, 10}};
  const std::vector<SourceShare> shares = divide_run(demands, 0, 1);
  EXPECT_EQ(shares[0].share, 0.75);
  EXPECT_EQ(shares[1].share, 0.25);
  EXPECT_EQ(shares[0].passes, 0);
}

TEST(DivideRun, ARunThatAsksForMoreIsRefusedWithTheStepsThatFit) {
  const std::vector<SourceDemand> demands = {{"a", 3, 1, 10}, {"b", 1, 2.5, 20}};
  expect_usage_error(
      [&] { divide_run(demands, 100, 10); },
      "the run takes 100 sequences, and data.sources within their max_passes give 60; lower training.steps "
      "to 6, raise max_passes, or add text");
}

TEST_F(PackedSamplerTest, RestoredPositionGoesOnExactly) {
  add("a", counting_text(300), 2);
  add("b", counting_text(471), 1);
  for (const int64_t before : {0, 1, 13, 20, 21, 500}) {
    PackedSampler whole = sampler(9);
    PackedBatch expected, found;
    whole.next_batch(before, &expected);
    const DataPosition position = DataPosition::from_json(whole.position().to_json(), "state.json");
    EXPECT_TRUE(position == whole.position());
    whole.next_batch(77, &expected);

    PackedSampler resumed = sampler(9);
    resumed.restore(position);
    resumed.next_batch(77, &found);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.targets, expected.targets);
    EXPECT_TRUE(resumed.position() == whole.position());

    PackedSampler skipped = sampler(9);
    skipped.skip(before);
    EXPECT_TRUE(skipped.position() == position);
  }
}

TEST_F(PackedSamplerTest, MicrobatchesAreTheBatchInPieces) {
  add("a", counting_text(900), 1);
  PackedBatch whole, part;
  PackedSampler a = sampler(8), b = sampler(8);
  a.next_batch(6, &whole);
  std::vector<int32_t> joined;
  for (int i = 0; i < 3; ++i) {
    b.next_batch(2, &part);
    joined.insert(joined.end(), part.targets.begin(), part.targets.end());
  }
  EXPECT_EQ(joined, whole.targets);
}

TEST_F(PackedSamplerTest, TheHeldOutPartIsNeverTrainedOn) {
  add("a", std::string(950, 'a') + std::string(49, 'v'), 1, 0.05);
  PackedSampler s = sampler(6);
  PackedBatch batch;
  s.next_batch(1000, &batch);
  for (const int32_t token : batch.tokens) ASSERT_EQ(token, 'a');
  for (const int32_t target : batch.targets) ASSERT_EQ(target, 'a');
}

TEST_F(PackedSamplerTest, AMinimalTextIsOneWindow) {
  add("a", "abc", 1);  // with its end of text: four tokens
  PackedSampler s = sampler(3);
  PackedBatch batch;
  s.next_batch(2, &batch);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{'a', 'b', 'c', 'a', 'b', 'c'}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{'b', 'c', 256, 'b', 'c', 256}));
  EXPECT_EQ(s.position().sources[0].epoch, 2);
  expect_usage_error([&] { sampler(4); },
                     "source 'a' has 4 tokens to train on, but one sequence with its last target takes 5; use a longer "
                     "text or a smaller training.seq_len");
}

TEST_F(PackedSamplerTest, PositionsOfOtherTextsAreRefused) {
  add("a", counting_text(300), 1);
  PackedSampler s = sampler(9);
  DataPosition position = s.position();
  position.sources[0].name = "b";
  expect_usage_error([&] { s.restore(position); }, "cannot resume: source 1 was 'b' in the checkpoint and is 'a' now");
  position = s.position();
  position.sources[0].fingerprint = "?";
  expect_usage_error(
      [&] { s.restore(position); },
      "cannot resume: the text, tokenizer or chat template of source 'a' has changed since the checkpoint; "
      "bring back what it was, or start a new run");
  position = s.position();
  position.sources[0].index = 1000;
  EXPECT_THROW(s.restore(position), Error);
  position.sources.clear();
  expect_usage_error([&] { s.restore(position); },
                     "cannot resume: the checkpoint has read 0 sources of text, data.sources names 1");
  EXPECT_THROW(DataPosition::from_json("{\"a\": 1}", "state.json"), Error);
}

TEST_F(PackedSamplerTest, ValidationReadsEveryTargetOnce) {
  add("a", counting_text(400), 1, 0.25);
  const TokenRange range = datasets_[0].validation();
  for (const int64_t max_tokens : {0, 1, 16, 30, 100000}) {
    ValidationBatches batches(datasets_[0], 16, max_tokens, letter_encoder());
    for (int pass = 0; pass < 2; ++pass) {
      PackedBatch batch;
      std::vector<int32_t> targets;
      int64_t bytes = 0;
      while (batches.next_batch(3, &batch)) {
        EXPECT_EQ(batch.sequences, 3);
        EXPECT_EQ(batch.tokens.size(), 48u);
        EXPECT_EQ(batch.targets.size(), 48u);
        EXPECT_EQ(batch.positions.size(), 48u);
        EXPECT_EQ(batch.document_offsets.back(), 48);
        for (const int32_t target : batch.targets) {
          if (target >= 0) targets.push_back(target);
        }
        bytes += batch.target_bytes;
      }
      const int64_t expected = max_tokens == 0 ? range.size() - 1 : std::min(range.size() - 1, max_tokens);
      ASSERT_EQ(static_cast<int64_t>(targets.size()), expected);
      for (int64_t i = 0; i < expected; ++i) {
        ASSERT_EQ(targets[static_cast<size_t>(i)], range.tokens[static_cast<size_t>(range.first + 1 + i)]);
      }
      EXPECT_EQ(bytes, expected - (expected == range.size() - 1));  // the end of text stands for no bytes
      batches.rewind();
    }
  }
}

TEST_F(PackedSamplerTest, NothingHeldOutGivesNoBatches) {
  add("a", counting_text(100), 1);
  ValidationBatches batches(datasets_[0], 16, 0, letter_encoder());
  PackedBatch batch;
  EXPECT_EQ(batches.sequences(), 0);
  EXPECT_FALSE(batches.next_batch(4, &batch));
}

TEST(SyntheticSource, TokensFillTheVocabularyAndResumeExactly) {
  SyntheticSource source(10, 20, 5);
  PackedBatch batch, again;
  source.next_batch(50, &batch);
  std::map<int32_t, int> count;
  for (const int32_t token : batch.tokens) ++count[token];
  EXPECT_EQ(count.size(), 10u);
  EXPECT_EQ(count.begin()->first, 0);
  EXPECT_EQ(count.rbegin()->first, 9);
  EXPECT_EQ(batch.target_count, 1000);
  EXPECT_EQ(batch.document_offsets.size(), 51u);
  for (int i = 0; i + 1 < 20; ++i) EXPECT_EQ(batch.targets[i], batch.tokens[i + 1]);

  const DataPosition position = source.position();
  source.next_batch(3, &batch);
  SyntheticSource resumed(10, 20, 5);
  resumed.restore(position);
  resumed.next_batch(3, &again);
  EXPECT_EQ(again.tokens, batch.tokens);
  expect_usage_error([&] { resumed.restore({}); },
                     "cannot resume: the checkpoint was trained on text, and data.synthetic = true now");
}

class ChatSamplerTest : public PackedSamplerTest {
 protected:
  /// Conversations whose answer i is `answer(i)`.
  void add_chats(int count, const std::function<std::string(int)>& answer, double weight = 1, double fraction = 0.0) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
      lines += R"({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": ")" + answer(i) +
               "\"}]}\n";
    }
    TextSource source;
    source.format = SourceFormat::kChat;
    source.weight = weight;
    source.path = folder_.write("chats.jsonl", lines);
    datasets_.emplace_back(source, fraction, letter_encoder(), folder_.path() / "cache");
  }
  /// What a batch teaches, with $ for an end.
  static std::string learnt(const PackedBatch& batch) {
    std::string text;
    for (const int32_t target : batch.targets) {
      if (target >= 0) text += target == 256 ? '$' : static_cast<char>(target);
    }
    return text;
  }
};

TEST_F(ChatSamplerTest, APassTeachesEveryAnswerOnceAndNothingElse) {
  add_chats(9, [](int i) { return std::string(1, static_cast<char>('A' + i)); });
  PackedSampler s = sampler(13);  // two of 6 tokens, and padding
  PackedBatch batch;
  std::string taught;
  int sequences = 0;
  while (s.position().sources[0].epoch == 0) {
    s.next_batch(1, &batch);
    taught += learnt(batch);
    ++sequences;
  }
  EXPECT_EQ(sequences, 5);
  std::sort(taught.begin(), taught.end());
  EXPECT_EQ(taught, "$$$$$$$$$ABCDEFGHI");
}

TEST_F(ChatSamplerTest, RestoredPositionGoesOnExactlyBesideAText) {
  add_chats(
      31, [](int i) { return std::string(static_cast<size_t>(i), 'x'); }, 2);
  add("text", counting_text(200), 1);
  for (const int64_t before : {0, 1, 10, 100}) {
    PackedSampler whole = sampler(40);
    PackedBatch expected, found;
    whole.next_batch(before, &expected);
    const DataPosition position = whole.position();
    whole.next_batch(60, &expected);
    PackedSampler resumed = sampler(40);
    resumed.restore(position);
    resumed.next_batch(60, &found);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.targets, expected.targets);
    EXPECT_EQ(found.document_offsets, expected.document_offsets);
    PackedSampler skipped = sampler(40);
    skipped.skip(before);
    EXPECT_TRUE(skipped.position() == position);
  }
}

TEST_F(ChatSamplerTest, NoAnswerWithinASequenceIsAnError) {
  add_chats(2, [](int) { return std::string("yes"); });
  EXPECT_EQ(sampler(4).position().sources[0].epoch, 0);
  expect_usage_error(
      [&] { sampler(3); },
      "source 'chats' has no conversation whose first 3 tokens hold a part of an answer (the longest has "
      "8); raise training.seq_len");
}

TEST_F(ChatSamplerTest, ValidationTeachesTheHeldOutAnswers) {
  add_chats(
      10, [](int i) { return std::string(1, static_cast<char>('A' + i)); }, 1, 0.3);
  PackedSampler s = sampler(12);
  PackedBatch batch;
  s.next_batch(200, &batch);
  EXPECT_EQ(learnt(batch).find_first_of("HIJ"), std::string::npos);
  const auto validated = [&](int64_t max_tokens) {
    ValidationBatches batches(datasets_[0], 12, max_tokens, letter_encoder());
    std::string text;
    while (batches.next_batch(3, &batch)) text += learnt(batch);
    return text;
  };
  EXPECT_EQ(validated(0), "H$I$J$");
  EXPECT_EQ(validated(12), "H$I$");
  EXPECT_EQ(validated(13), "H$I$J$");
}

}  // namespace
}  // namespace deeptitan

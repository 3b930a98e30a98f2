#include "generate/scheduler.h"

#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

Sequence prompt(int64_t tokens) {
  Sequence sequence;
  sequence.tokens.resize(tokens);
  return sequence;
}

// What a batch holds, as "place: tokens", and as if it had been run.
std::string run(Scheduler& scheduler, std::vector<Sequence>& sequences) {
  std::string batch;
  for (const auto& [sequence, count] : scheduler.next()) {
    if (!batch.empty()) batch += ", ";
    batch += std::to_string(sequence - sequences.data()) + ": " + std::to_string(count);
    sequence->cached += count;
    if (sequence->pending() == 0) sequence->tokens.push_back(0);
  }
  return batch;
}

constexpr Scheduler::Limits kLimits{
    .sequences = 3, .batch_tokens = 302, .prefill_chunk = 300, .pages = 100, .page_size = 16};

TEST(Scheduler, RunsChunksOfPromptsBesideDecode) {
  Scheduler scheduler(kLimits);
  std::vector<Sequence> sequences = {prompt(10), prompt(700), prompt(400), prompt(5)};
  for (Sequence& s : sequences) scheduler.add(&s, 100, &s - sequences.data());
  // Ten tokens leave no room for a chunk of 300; the fourth waits for a place.
  EXPECT_EQ(run(scheduler, sequences), "0: 10");
  EXPECT_EQ(run(scheduler, sequences), "0: 1, 1: 300");
  EXPECT_EQ(run(scheduler, sequences), "0: 1, 1: 300");
  EXPECT_EQ(run(scheduler, sequences), "0: 1, 1: 100");  // what is left of the second; the third's chunk does not fit
  EXPECT_EQ(run(scheduler, sequences), "0: 1, 1: 1, 2: 300");
  scheduler.remove(&sequences[0]);
  EXPECT_EQ(run(scheduler, sequences), "1: 1, 2: 100, 3: 5");
  EXPECT_EQ(run(scheduler, sequences), "1: 1, 2: 1, 3: 1");
  for (Sequence& s : sequences) scheduler.remove(&s);
  EXPECT_EQ(run(scheduler, sequences), "");
}

TEST(Scheduler, AdmitsInOrderWhilePagesLast) {
  Scheduler scheduler(kLimits);
  std::vector<Sequence> sequences = {prompt(4), prompt(4), prompt(4)};
  scheduler.add(&sequences[0], 60 * 16, 0);
  scheduler.add(&sequences[1], 41 * 16, 1);  // one page more than is left
  scheduler.add(&sequences[2], 16, 2);       // it would fit, but it came later
  EXPECT_EQ(run(scheduler, sequences), "0: 4");
  EXPECT_TRUE(scheduler.can_admit(40 * 16));
  EXPECT_FALSE(scheduler.can_admit(40 * 16 + 1));
  scheduler.remove(&sequences[0]);
  EXPECT_EQ(run(scheduler, sequences), "1: 4, 2: 4");
  scheduler.reserve(50);
  EXPECT_FALSE(scheduler.can_admit(9 * 16));
  expect_runtime_error([&] { scheduler.admit(&sequences[0], 9 * 16); },
                       "a sequence of up to 144 tokens has no place among 2 of 3 running");
  scheduler.unreserve(50);
  EXPECT_TRUE(scheduler.can_admit(9 * 16));
}

// One that is queued late, as who takes the place of another is, goes before those that came after it.
TEST(Scheduler, QueuesByArrival) {
  Scheduler scheduler({.sequences = 1, .batch_tokens = 300, .prefill_chunk = 300, .pages = 100, .page_size = 16});
  std::vector<Sequence> sequences = {prompt(4), prompt(4), prompt(4)};
  for (const size_t i : {2, 0, 1}) scheduler.add(&sequences[i], 16, static_cast<int64_t>(i));
  for (const char* batch : {"0: 4", "1: 4", "2: 4"}) {
    EXPECT_EQ(run(scheduler, sequences), batch);
    scheduler.remove(&sequences[batch[0] - '0']);
  }
}

TEST(Scheduler, RefusesWhatTheWholeCacheCannotHold) {
  Scheduler scheduler(kLimits);
  Sequence sequence = prompt(4);
  expect_usage_error([&] { scheduler.add(&sequence, 1601, 0); },
                     "a sequence of up to 1601 tokens needs 101 cache pages of 16; the cache has 100");
}

// Whatever is cut keeps at least kExpandedRows rows in each part, where the chunk allows it: each then runs in the form
// of the prompt whole.
TEST(Scheduler, NoPartOfALongPromptIsSmall) {
  for (const int64_t chunk : {128, 200, 1024}) {
    for (int64_t length = kExpandedRows; length < 4 * chunk; ++length) {
      int64_t left = length;
      while (left > 0) {
        const int64_t count = next_chunk(left, chunk);
        ASSERT_GE(count, kExpandedRows) << length << " in chunks of " << chunk;
        ASSERT_LE(count, chunk);
        left -= count;
      }
      ASSERT_EQ(left, 0);
    }
  }
  EXPECT_EQ(next_chunk(5, 8), 5);
  EXPECT_EQ(next_chunk(9, 8), 8);
  EXPECT_EQ(next_chunk(1, 1), 1);
}

}  // namespace
}  // namespace deeptitan

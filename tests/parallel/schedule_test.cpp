#include "parallel/schedule.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "parallel/every_schedule.h"
#include "parallel/schedule_simulator.h"
#include "parallel/schedule_timeline.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

TEST(Schedule, EveryOneRunsToItsEnd) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    for (int microbatches = 1; microbatches <= 9; ++microbatches) {
      for (const Schedule& s : testing::every_schedule(ranks, microbatches)) {
        const SimulatedSchedule simulated = simulate(s);
        EXPECT_GE(simulated.time, 3.0 * microbatches * s.stages / ranks) << s.name;
      }
      for (int chunks = 1; chunks <= 3; ++chunks) {
        const Schedule s = interleaved_schedule(ranks, chunks, ranks * microbatches);
        EXPECT_EQ(s.stages, ranks * chunks);
        simulate(s);
      }
    }
  }
}

// (p - 1) of m + p - 1 slots are empty in GPipe and 1F1B; chunks divide the bubble (Narayanan et al. 2021).
TEST(Schedule, BubblesAreThoseOfThePapers) {
  const ActionTimes times{.forward = 1, .backward_input = 1, .backward_weights = 1};
  const double one_f_one_b = simulate(one_f_one_b_schedule(4, 8), times).bubble;
  EXPECT_NEAR(simulate(gpipe_schedule(4, 8), times).bubble, 3.0 / 11, 1e-12);
  EXPECT_NEAR(one_f_one_b, 3.0 / 11, 1e-12);
  // Two chunks of half the work each: (p - 1) / 2 slots.
  const ActionTimes half{.forward = 0.5, .backward_input = 0.5, .backward_weights = 0.5};
  EXPECT_NEAR(simulate(interleaved_schedule(4, 2, 8), half).bubble, 1.5 / 9.5, 1e-12);
  // ZB-H1: (p - 1)(F + B - W) instead of (p - 1)(F + B + W), a third where all take as long.
  EXPECT_NEAR(simulate(zero_bubble_schedule(4, 8), times).bubble, 3.0 / 27, 1e-12);
}

TEST(Schedule, LiveRecordsAreWhatAStageMustHold) {
  EXPECT_EQ(simulate(gpipe_schedule(3, 5)).live_records, (std::vector<int>{5, 5, 5}));
  EXPECT_EQ(simulate(one_f_one_b_schedule(3, 5)).live_records, (std::vector<int>{3, 2, 1}));
  EXPECT_EQ(simulate(one_f_one_b_schedule(3, 2)).live_records, (std::vector<int>{2, 2, 1}));
  // No stage holds more than the first of 1F1B.
  EXPECT_EQ(simulate(zero_bubble_schedule(3, 8)).live_records, (std::vector<int>{3, 3, 3}));
  EXPECT_EQ(simulate(one_f_one_b_schedule(1, 4)).live_records, (std::vector<int>{1}));
}

TEST(Schedule, OneRankIsTheLoopOverMicrobatches) {
  const std::vector<Action> expected = {{ActionKind::kForward, 0, 0},
                                        {ActionKind::kBackward, 0, 0},
                                        {ActionKind::kForward, 0, 1},
                                        {ActionKind::kBackward, 0, 1},
                                        {ActionKind::kReduce, 0, 0}};
  EXPECT_EQ(one_f_one_b_schedule(1, 2).actions.front(), expected);
}

TEST(ScheduleTimeline, DrawsWhoWorksWhen) {
  EXPECT_EQ(timeline_text(one_f_one_b_schedule(2, 2), 80),
            "rank 0   0   1   .   .   [0----] .   [1----]\n"
            "rank 1   .   0   [0----] 1   [1----] .   .\n"
            "1f1b: 2 ranks, 2 stages, 2 microbatches; the bubble is 33.3 % of the ranks' time; at most 2 microbatches' "
            "activations on a rank\n");
  EXPECT_EQ(
      timeline_text(zero_bubble_schedule(2, 2), 80),
      "rank 0   0   1   .   [0] w0  [1] w1\n"
      "rank 1   .   0   [0] 1   [1] w0  w1\n"
      "zb-h1: 2 ranks, 2 stages, 2 microbatches; the bubble is 14.3 % of the ranks' time; at most 2 microbatches' "
      "activations on a rank\n");
  EXPECT_EQ(timeline_text(interleaved_schedule(2, 2, 2), 90),
            "rank 0   0a   1a   0b   1b   .    .    [0b-----] .    [1b-----] [0a-----] [1a-----]\n"
            "rank 1   .    0a   1a   0b   [0b-----] 1b   [1b-----] [0a-----] [1a-----] .    .\n"
            "interleaved 1f1b: 2 ranks, 4 stages, 2 microbatches; the bubble is 20.0 % of the ranks' time; at most 4 "
            "microbatches' activations on a rank\n");
  EXPECT_TRUE(
      timeline_text(one_f_one_b_schedule(2, 2), 22).starts_with("rank 0   0   1   . ...\nrank 1   .   0   [0] ...\n"));
  const std::string svg = timeline_svg(zero_bubble_schedule(2, 2));
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("<title>backward of the weights of microbatch 1 in stage 0</title>"), std::string::npos);
}

TEST(ScheduleSimulator, NamesWhoWaitsForWhom) {
  Schedule s = one_f_one_b_schedule(2, 1);
  auto& first = s.actions[0];
  // Rank 0 waits for a gradient before it sends what that is the gradient of.
  const auto send = std::find(first.begin(), first.end(), Action{ActionKind::kSendForward, 0, 0});
  const auto receive = std::find(first.begin(), first.end(), Action{ActionKind::kReceiveBackward, 0, 0});
  std::iter_swap(send, receive);
  expect_runtime_error(
      [&] { simulate(s); },
      "1f1b: the ranks wait for one another: rank 0 waits in receive backward of microbatch 0 in stage "
      "0, rank 1 waits in receive forward of microbatch 0 in stage 1");
}

TEST(ScheduleSimulator, MessagesArriveInTheOrderInWhichTheyWereSent) {
  Schedule schedule = gpipe_schedule(2, 2);
  std::vector<Action>& last = schedule.actions[1];  // receive, forward, receive, forward, ...
  std::swap(last[0], last[2]);
  std::swap(last[1], last[3]);
  expect_runtime_error([&] { simulate(schedule); },
                       "gpipe: receive forward of microbatch 1 in stage 1: another message was sent before it on the "
                       "same way, and messages arrive in order");
}

TEST(ScheduleSimulator, HoldsTheOrderOfAMicrobatch) {
  Schedule s{.name = "mine", .ranks = 1, .stages = 1, .microbatches = 2, .actions = {}};
  const auto run = [&](std::vector<Action> actions) {
    return [&s, actions] {
      s.actions = {actions};
      simulate(s);
    };
  };
  const Action f0{ActionKind::kForward, 0, 0};
  const Action f1{ActionKind::kForward, 0, 1};
  const Action b0{ActionKind::kBackward, 0, 0};
  const Action b1{ActionKind::kBackward, 0, 1};
  expect_runtime_error(run({b0}), "mine: backward of microbatch 0 in stage 0: the microbatch has not been forward");
  expect_runtime_error(run({f0, f0}), "mine: forward of microbatch 0 in stage 0: it was done before");
  expect_runtime_error(run({f0, f1, b1}),
                       "mine: backward of microbatch 1 in stage 0: weights' gradients are added in the order of the "
                       "microbatches");
  expect_runtime_error(
      run({f0, {ActionKind::kBackwardWeights, 0, 0}}),
      "mine: backward of the weights of microbatch 0 in stage 0: the backward of its input comes first");
  expect_runtime_error(run({f0, b0}), "mine: stage 0 ends 1 of 2 microbatches");
  expect_runtime_error(run({f0, b0, {ActionKind::kReduce, 0, 0}}),
                       "mine: reduce of stage 0: its gradients are not whole");
}

TEST(ScheduleSimulator, NeighboursOnOneRankHandOverInOrder) {
  Schedule s = testing::v_shaped_schedule(2, 1);
  const std::vector<Action> last = {{ActionKind::kReceiveForward, 1, 0},  {ActionKind::kForward, 1, 0},
                                    {ActionKind::kForward, 2, 0},         {ActionKind::kSendForward, 2, 0},
                                    {ActionKind::kReceiveBackward, 2, 0}, {ActionKind::kBackward, 2, 0},
                                    {ActionKind::kReduce, 2, 0},          {ActionKind::kBackward, 1, 0},
                                    {ActionKind::kSendBackward, 1, 0},    {ActionKind::kReduce, 1, 0}};
  EXPECT_EQ(s.actions[1], last);
  EXPECT_EQ(s.place_on_rank(2), 1);
  std::swap(s.actions[1][0], s.actions[1][2]);
  expect_runtime_error([&] { simulate(s); },
                       "v-shaped: forward of microbatch 0 in stage 2: its input is not there yet");
  s = testing::v_shaped_schedule(2, 1);
  std::swap(s.actions[1][5], s.actions[1][7]);
  expect_runtime_error([&] { simulate(s); },
                       "v-shaped: backward of microbatch 0 in stage 1: its output's gradient is not there yet");
}

TEST(Schedule, EachNameOfTheConfigurationIsOne) {
  RunConfig::Parallelism parallelism;
  const auto name = [&](PipelineScheduleName schedule) {
    parallelism.pipeline_parallel_schedule = schedule;
    return make_schedule(parallelism, 2, 4).name;
  };
  EXPECT_EQ(name(PipelineScheduleName::kGPipe), "gpipe");
  EXPECT_EQ(name(PipelineScheduleName::k1F1B), "1f1b");
  EXPECT_EQ(name(PipelineScheduleName::kInterleaved1F1B), "interleaved 1f1b");
  EXPECT_EQ(name(PipelineScheduleName::kZeroBubbleH1), "zb-h1");
}

TEST(Schedule, CountsThatDoNotFitAreRefused) {
  expect_usage_error([] { one_f_one_b_schedule(0, 1); },
                     "a pipeline has at least one rank and one microbatch, found 0 and 1");
  expect_usage_error(
      [] { interleaved_schedule(2, 2, 3); },
      "the interleaved schedule wants at least one chunk a rank, and microbatches that are a multiple of "
      "the ranks; found 2 chunks, 3 microbatches on 2 ranks");
}

}  // namespace
}  // namespace deeptitan

// Dispatchers with less room than rows may need: the step halts like one that is not finite, and is run again with the
// experts in slices, before anything behind it.

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "support/dispatcher_with_room.h"
#include "support/tiny_model.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::dispatcher_with_room;
using testing::random_batch;
using testing::tiny_v3;

constexpr int64_t kWindow = 21;
constexpr int64_t kStepsToTake = 5;

TrainingEngineOptions options_with(int report_lag, Recomputation what = Recomputation::kNothing) {
  TrainingEngineOptions options;
  options.seq_len = kWindow;
  options.sequences = 2;
  options.report_lag = report_lag;
  options.recomputation = what;
  return options;
}

// Each batch routes its tokens: all 126 slots have rows, and there is room for half of them.
MakeDispatcher too_little_room() {
  return dispatcher_with_room(1, [](int64_t most) { return most / 2; });
}

struct StepsTaken {
  std::vector<StepResult> reports;
  std::vector<float> values;
  int64_t updates = 0;
};

StepsTaken take_steps(const TrainingEngineOptions& options) {
  TrainingEngine engine(tiny_v3(), options);
  engine.allocate();
  engine.initialize(7);
  StepsTaken result;
  const auto take = [&](std::optional<StepResult> report) {
    if (report) result.reports.push_back(*report);
    return report.has_value();
  };
  for (int64_t step = 1; step <= kStepsToTake; ++step) {
    const PackedBatch one = random_batch(engine.model().config(), 2, kWindow, static_cast<uint64_t>(2 * step));
    const PackedBatch two = random_batch(engine.model().config(), 2, kWindow, static_cast<uint64_t>(2 * step + 1));
    engine.begin_step(step, 0.01, one.target_count + two.target_count, 2);
    engine.add_microbatch(one);
    engine.add_microbatch(two);
    engine.end_step();
    take(engine.due_report());
  }
  while (take(engine.remaining_report())) {
  }
  for (const Parameter& p : engine.model().parameters().all()) {
    const float* values = p.value.host<float>();
    result.values.insert(result.values.end(), values, values + p.value.numel());
  }
  result.updates = engine.updates();
  return result;
}

void expect_same_steps(const StepsTaken& found, const StepsTaken& expected, double tolerance) {
  ASSERT_EQ(found.reports.size(), expected.reports.size());
  for (size_t i = 0; i < expected.reports.size(); ++i) {
    EXPECT_EQ(found.reports[i].step, static_cast<int64_t>(i) + 1);
    EXPECT_NEAR(found.reports[i].loss, expected.reports[i].loss, tolerance) << i;
    EXPECT_NEAR(found.reports[i].gradient_norm, expected.reports[i].gradient_norm, 20 * tolerance) << i;
    EXPECT_TRUE(found.reports[i].finite) << i;
    EXPECT_EQ(found.reports[i].moe_layers.size(), expected.reports[i].moe_layers.size());
  }
  EXPECT_EQ(found.updates, expected.updates);
}

TEST(RowOverflow, AStepThatDoesNotFitIsRunAgain) {
  const StepsTaken enough = take_steps(options_with(0));
  for (const Recomputation what : {Recomputation::kNothing, Recomputation::kCheap, Recomputation::kLayers}) {
    TrainingEngineOptions options = options_with(0, what);
    options.make_dispatcher = too_little_room();
    const StepsTaken little = take_steps(options);
    expect_same_steps(little, enough, 2e-5);
    for (const StepResult& report : little.reports) EXPECT_EQ(report.row_overflows, 1) << report.step;
  }
  for (const StepResult& report : enough.reports) EXPECT_EQ(report.row_overflows, 0) << report.step;
}

// What was queued behind the step is applied after it, not before: the lag does not show.
TEST(RowOverflow, StepsQueuedBehindAreRunAgainInOrder) {
  TrainingEngineOptions options = options_with(0);
  options.make_dispatcher = too_little_room();
  const StepsTaken at_once = take_steps(options);
  options.report_lag = 1;
  const StepsTaken late = take_steps(options);
  expect_same_steps(late, at_once, 0);
  EXPECT_EQ(late.values, at_once.values);
}

TEST(RowOverflow, WithRoomForTheRowsThatComeNothingIsRunAgain) {
  TrainingEngineOptions options = options_with(1);
  const StepsTaken enough = take_steps(options);
  // An alignment of 4 may need 3 rows of padding for each of 8 experts; batches need fewer than all of them.
  options.make_dispatcher = dispatcher_with_room(4, [](int64_t most) { return most - 1; });
  const StepsTaken little = take_steps(options);
  EXPECT_EQ(little.values, enough.values);
  for (const StepResult& report : little.reports) EXPECT_EQ(report.row_overflows, 0) << report.step;
  options.recomputation = Recomputation::kCheap;
  EXPECT_EQ(take_steps(options).values, enough.values) << "rows with padding between them, brought again";
}

// Nothing is lost between slices without a backward, so a validation takes them at once.
TEST(RowOverflow, AValidationNeverOverflows) {
  TrainingEngineOptions options = options_with(0);
  TrainingEngine enough(tiny_v3(), options);
  options.make_dispatcher = too_little_room();
  TrainingEngine little(tiny_v3(), options);
  const PackedBatch batch = random_batch(tiny_v3(), 2, kWindow, 3);
  std::vector<double> losses;
  for (TrainingEngine* engine : {&enough, &little}) {
    engine->allocate();
    engine->initialize(7);
    losses.push_back(engine->evaluate(batch));
  }
  EXPECT_GT(losses[0], 0);
  EXPECT_EQ(losses[0], losses[1]);
}

}  // namespace
}  // namespace deeptitan

// What changes from step to step lies where the ops run: reports with and without lag, skipped and halted steps, and
// gradients that are overwritten instead of cleared.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/tiny_model.h"
#include "train/drawn_engine.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::random_batch;
using testing::tiny_v2;
using testing::tiny_v3;

constexpr int64_t kTokens = 21;

std::unique_ptr<TrainingEngine> engine_of(const ModelConfig& config, int report_lag = 0, bool halt = false) {
  TrainingEngineOptions options;
  options.seq_len = kTokens;
  options.sequences = 2;
  options.report_lag = report_lag;
  options.halt_not_finite = halt;
  return drawn_engine(config, options);
}

void queue_step(TrainingEngine& engine, int64_t step, uint64_t seed) {
  const PackedBatch batch = random_batch(engine.model().config(), 2, kTokens, seed);
  engine.begin_step(step, 0.01, batch.target_count, 1);
  engine.add_microbatch(batch);
  engine.end_step();
}

std::vector<float> all_of(TrainingEngine& engine, Tensor Parameter::*which) {
  std::vector<float> values;
  for (const Parameter& p : engine.model().parameters().all()) {
    const Tensor& tensor = p.*which;
    if (tensor.defined()) values.insert(values.end(), tensor.host<float>(), tensor.host<float>() + tensor.numel());
  }
  return values;
}

void expect_same_report(const StepResult& a, const StepResult& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.mtp_loss, b.mtp_loss);
  EXPECT_EQ(a.gradient_norm, b.gradient_norm);
  EXPECT_EQ(a.finite, b.finite);
  ASSERT_EQ(a.moe_layers.size(), b.moe_layers.size());
  for (size_t i = 0; i < a.moe_layers.size(); ++i) {
    EXPECT_EQ(a.moe_layers[i].load_max_over_mean, b.moe_layers[i].load_max_over_mean);
    EXPECT_EQ(a.moe_layers[i].bias_range, b.moe_layers[i].bias_range);
    EXPECT_EQ(a.moe_layers[i].aux_loss, b.moe_layers[i].aux_loss);
  }
}

TEST(StepState, ReportsAreTheSameOneStepLate) {
  const auto at_once = engine_of(tiny_v3(), 0);
  const auto late = engine_of(tiny_v3(), 1);
  std::vector<StepResult> expected;
  std::vector<StepResult> found;
  for (int64_t step = 1; step <= 4; ++step) {
    queue_step(*at_once, step, step);
    std::optional<StepResult> report = at_once->due_report();
    ASSERT_TRUE(report.has_value());
    EXPECT_EQ(report->step, step);
    expected.push_back(*report);
    queue_step(*late, step, step);
    report = late->due_report();
    ASSERT_EQ(report.has_value(), step > 1);
    if (report) {
      EXPECT_EQ(report->step, step - 1);
      found.push_back(*report);
    }
  }
  EXPECT_FALSE(at_once->remaining_report().has_value());
  const std::optional<StepResult> last = late->remaining_report();
  ASSERT_TRUE(last.has_value());
  found.push_back(*last);
  EXPECT_FALSE(late->remaining_report().has_value());
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) expect_same_report(found[i], expected[i]);
  EXPECT_EQ(all_of(*at_once, &Parameter::value), all_of(*late, &Parameter::value));
  expect_runtime_error([&] { late->finish_step(); },
                       "finish_step reads a step's report at once, and report_lag is 1; use end_step");
}

TEST(StepState, SkippedStepsAreNotCountedInTheBiasCorrection) {
  const auto skipping = engine_of(tiny_v3());
  const auto fresh = engine_of(tiny_v3());
  // The final norm's weight touches every token's loss.
  float* weight = skipping->model().parameters().find("model.norm.weight")->value.host<float>();
  const float was = weight[0];
  for (int64_t step = 1; step <= 3; ++step) {
    weight[0] = std::numeric_limits<float>::infinity();
    queue_step(*skipping, step, step);
    EXPECT_FALSE(skipping->due_report()->finite);
    weight[0] = was;
  }
  EXPECT_EQ(skipping->updates(), 0);
  for (int64_t step = 4; step <= 5; ++step) {
    queue_step(*skipping, step, step);
    queue_step(*fresh, step - 3, step);
    EXPECT_TRUE(skipping->due_report()->finite);
  }
  EXPECT_EQ(skipping->updates(), 2);
  EXPECT_EQ(all_of(*skipping, &Parameter::value), all_of(*fresh, &Parameter::value));
}

TEST(StepState, AHaltedRunAppliesNothingOfTheStepsBehind) {
  const auto engine = engine_of(tiny_v3(), 1, /*halt=*/true);
  float* weight = engine->model().parameters().find("model.norm.weight")->value.host<float>();
  queue_step(*engine, 1, 1);
  const float was = weight[0];
  weight[0] = std::numeric_limits<float>::quiet_NaN();
  queue_step(*engine, 2, 2);
  weight[0] = was;
  const std::vector<float> before = all_of(*engine, &Parameter::value);
  queue_step(*engine, 3, 3);  // queued before the host knows of step 2
  EXPECT_TRUE(engine->due_report()->finite);
  EXPECT_FALSE(engine->due_report()->finite);
  EXPECT_FALSE(engine->remaining_report()->finite);
  EXPECT_EQ(all_of(*engine, &Parameter::value), before);
  EXPECT_EQ(engine->updates(), 1);
}

// A step of two microbatches whose gradients start as rubbish, against one whose gradients are cleared and added to.
void expect_gradients_of_a_cleared_engine(const ModelConfig& config, int64_t length, RouteRecord* first = nullptr,
                                          RouteRecord* second = nullptr) {
  TrainingEngineOptions options;
  options.seq_len = length;
  options.sequences = 2;
  std::vector<std::vector<float>> gradients;
  std::vector<double> norms;
  for (const bool cleared : {false, true}) {
    TrainingEngine engine(config, options);
    engine.allocate();
    engine.initialize(7);
    for (const Parameter& p : engine.model().parameters().all()) {
      const float rubbish = cleared ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      if (p.gradient.defined()) std::fill_n(p.gradient.host<float>(), p.gradient.numel(), rubbish);
    }
    const PackedBatch one = random_batch(config, 2, length, 3);
    const PackedBatch two = random_batch(config, 2, length, 4);
    engine.begin_step(1, 0.0, one.target_count + two.target_count, 2);
    if (cleared) {
      for (Parameter& p : engine.model().parameters().all()) p.gradient_written = true;
    }
    engine.set_routes(first);
    engine.add_microbatch(one);
    engine.set_routes(second);
    engine.add_microbatch(two);
    norms.push_back(engine.finish_step().gradient_norm);
    gradients.push_back(all_of(engine, &Parameter::gradient));
  }
  EXPECT_TRUE(std::isfinite(norms[0]));
  EXPECT_EQ(norms[0], norms[1]);
  EXPECT_EQ(gradients[0], gradients[1]);
}

TEST(FirstWrites, ATiedTableHasTwoWriters) {
  expect_gradients_of_a_cleared_engine(tiny_v2(), kTokens);
}

TEST(FirstWrites, NextTokenPredictionWritesTheHeadAgain) {
  expect_gradients_of_a_cleared_engine(tiny_v3(), kTokens);
}

TEST(FirstWrites, AHeadInChunksWritesOnceAChunk) {
  ModelConfig config = tiny_v3();
  config.vocab_size = 33000;  // 64 rows a chunk
  expect_gradients_of_a_cleared_engine(config, 40);
}

TEST(FirstWrites, IdleExpertsGetZeros) {
  ModelConfig config = tiny_v3();
  config.num_nextn_predict_layers = 0;
  const int64_t layers = config.num_hidden_layers;
  const int64_t slots = 2 * kTokens * config.num_experts_per_tok;
  // Expert 3 has no token in the first microbatch, expert 5 none in the whole step.
  const auto routes_without = [&](std::vector<std::vector<int32_t>>& chosen, std::vector<int32_t> experts) {
    RouteRecord routes{.replay = true, .expert_index = {}};
    for (int64_t layer = 0; layer < layers; ++layer) {
      std::vector<int32_t>& of_layer = chosen.emplace_back();
      for (int64_t i = 0; i < slots; ++i) of_layer.push_back(experts[static_cast<size_t>(i) % experts.size()]);
      routes.expert_index.emplace_back(of_layer.data(), DType::kI32,
                                       Tensor::Shape{2 * kTokens, config.num_experts_per_tok});
    }
    return routes;
  };
  std::vector<std::vector<int32_t>> chosen;
  chosen.reserve(static_cast<size_t>(2 * layers));
  RouteRecord first = routes_without(chosen, {0, 1, 2, 4, 6, 7});
  RouteRecord second = routes_without(chosen, {3, 0, 1, 2, 4, 6, 7});
  expect_gradients_of_a_cleared_engine(config, kTokens, &first, &second);
}

}  // namespace
}  // namespace deeptitan

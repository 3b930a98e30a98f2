// Training steps on a GPU, beside the CPU's.

#include <cmath>
#include <filesystem>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/run_checkpoints.h"
#include "core/device_choice.h"
#include "core/file.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"
#include "support/compare.h"
#include "support/tiny_model.h"
#include "train/training_checkpoint.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::random_batch;
using testing::relative_error;
using testing::tiny_v2;
using testing::tiny_v3;

class TrainingOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const DeviceChoice choice = choose_device("auto");
    if (choice.device.kind == DeviceKind::kCpu) GTEST_SKIP() << "needs a GPU; runs on " << choice.description;
    gpu_ = choice.device;
  }
  Device gpu_;
};

std::unique_ptr<TrainingEngine> drawn_engine(const ModelConfig& config, Device device, DType compute,
                                             bool recompute = false) {
  TrainingEngineOptions options;
  options.device = device;
  options.compute = compute;
  options.seq_len = 24;
  options.sequences = 2;
  options.recompute_layers = recompute;
  auto engine = std::make_unique<TrainingEngine>(config, options);
  engine->allocate();
  engine->initialize(7);
  return engine;
}

StepResult run_step(TrainingEngine& engine, const ModelConfig& config, int64_t step) {
  const std::vector<PackedBatch> batches = {random_batch(config, 2, 24, 2 * step),
                                            random_batch(config, 2, 24, 2 * step + 1)};
  int64_t targets = 0;
  for (const PackedBatch& batch : batches) targets += batch.target_count;
  engine.begin_step(step, 1e-3, targets, 2);
  for (const PackedBatch& batch : batches) engine.add_microbatch(batch);
  return engine.finish_step();
}

std::vector<float> all_values(TrainingEngine& engine) {
  std::vector<float> values;
  for (const Parameter& p : engine.model().parameters().all()) {
    const std::vector<float> part = download<float>(p.value);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

TEST_F(TrainingOnGpu, StepsAreTheCpus) {
  for (const ModelConfig& config : {tiny_v2(), tiny_v3()}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const auto cpu = drawn_engine(config, {}, compute);
      const auto gpu = drawn_engine(config, gpu_, compute);
      EXPECT_EQ(all_values(*cpu), all_values(*gpu)) << "drawn";
      const double tolerance = compute == DType::kF32 ? 2e-5 : 1e-2;
      for (int64_t step = 1; step <= 3; ++step) {
        const StepResult expected = run_step(*cpu, config, step);
        const StepResult found = run_step(*gpu, config, step);
        EXPECT_NEAR(found.loss, expected.loss, tolerance * expected.loss) << step;
        EXPECT_NEAR(found.gradient_norm, expected.gradient_norm, 10 * tolerance * expected.gradient_norm) << step;
        ASSERT_EQ(found.moe_layers.size(), expected.moe_layers.size());
        for (size_t i = 0; i < found.moe_layers.size() && compute == DType::kF32 && step == 1; ++i) {
          EXPECT_EQ(found.moe_layers[i].load_max_over_mean, expected.moe_layers[i].load_max_over_mean);
          EXPECT_NEAR(found.moe_layers[i].aux_loss, expected.moe_layers[i].aux_loss, 1e-5);
        }
      }
      if (compute == DType::kF32) {
        EXPECT_LT(relative_error(all_values(*gpu), all_values(*cpu)), 1e-2);
      }
    }
  }
}

TEST_F(TrainingOnGpu, TwoRunsHaveTheSameBits) {
  const ModelConfig config = tiny_v3();
  const auto first = drawn_engine(config, gpu_, DType::kBF16);
  const auto second = drawn_engine(config, gpu_, DType::kBF16);
  const auto recomputed = drawn_engine(config, gpu_, DType::kBF16, /*recompute=*/true);
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult result = run_step(*first, config, step);
    EXPECT_EQ(result.loss, run_step(*second, config, step).loss);
    EXPECT_EQ(result.loss, run_step(*recomputed, config, step).loss);
  }
  EXPECT_EQ(all_values(*first), all_values(*second));
  EXPECT_EQ(all_values(*first), all_values(*recomputed));
}

TEST_F(TrainingOnGpu, SamplesAndEvaluatesAsTheCpu) {
  const ModelConfig config = tiny_v3();
  const auto cpu = drawn_engine(config, {}, DType::kF32);
  const auto gpu = drawn_engine(config, gpu_, DType::kF32);
  const PackedBatch batch = random_batch(config, 2, 24, 9);
  const double expected = cpu->evaluate(batch);
  EXPECT_NEAR(gpu->evaluate(batch), expected, 1e-5 * expected);
  const std::vector<int32_t> prompt(batch.tokens.begin(), batch.tokens.begin() + 11);
  EXPECT_LT(relative_error(gpu->next_token_logits(prompt), cpu->next_token_logits(prompt)), 1e-5);
}

// What a run leaves on one device goes on on the other: the same values, moments and bytes.
TEST_F(TrainingOnGpu, CheckpointsGoFromDeviceToDevice) {
  const ModelConfig config = tiny_v3();
  const auto folder = std::filesystem::temp_directory_path() / "deeptitan-device-test";
  std::filesystem::remove_all(folder);
  for (const auto& [first, second] : {std::pair{gpu_, Device{}}, std::pair{Device{}, gpu_}}) {
    const auto from = drawn_engine(config, first, DType::kF32);
    for (int64_t step = 1; step <= 2; ++step) run_step(*from, config, step);
    save_checkpoint(folder / "one", {.step = 2, .tokens = 192, .data = {}, .config = "x"}, *from, {}, 1);
    const auto to = drawn_engine(config, second, DType::kF32);
    load_checkpoint(folder / "one" / checkpoint_name(2), *to);
    EXPECT_EQ(all_values(*from), all_values(*to));
    for (size_t i = 0; i < from->model().parameters().all().size(); ++i) {
      const Parameter& p = from->model().parameters().all()[i];
      const Parameter& q = to->model().parameters().all()[i];
      for (const std::string& slot : from->optimizer_slots()) {
        if (!p.gradient.defined()) continue;
        EXPECT_EQ(download<float>(from->optimizer_slot(p, slot).memory),
                  download<float>(to->optimizer_slot(q, slot).memory));
      }
    }
    save_checkpoint(folder / "two", {.step = 2, .tokens = 192, .data = {}, .config = "x"}, *to, {}, 1);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "one")) {
      if (!entry.is_regular_file()) continue;
      const auto twin = folder / "two" / std::filesystem::relative(entry.path(), folder / "one");
      EXPECT_TRUE(read_file(entry.path()) == read_file(twin)) << twin;
    }
    const StepResult expected = run_step(*from, config, 3), found = run_step(*to, config, 3);
    EXPECT_NEAR(found.loss, expected.loss, 1e-4 * expected.loss);
    std::filesystem::remove_all(folder);
  }
}

}  // namespace
}  // namespace deeptitan

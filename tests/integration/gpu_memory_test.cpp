// What a plan for a GPU counts, beside what the card shows.

#include <cstdio>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/model_config.h"
#include "core/cuda_device.h"
#include "core/device_memory.h"
#include "core/file.h"
#include "core/memory_plan.h"
#include "generate/model_fixture.h"
#include "generate/model_runner.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/tiny_model.h"
#include "train/drawn_engine.h"

namespace deeptitan {
namespace {

class MemoryOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    DT_TAKE_GPU(gpu_);
    before_ = taken();
    const int64_t limit = cuda_context_bytes(gpu_) + kCudaCodeBytes + 100'000'000;
    if (before_ > limit) GTEST_SKIP() << "others hold memory of the card: " << format_bytes(before_) << " are taken";
    if (total() < 24'000'000'000) GTEST_SKIP() << "needs a card of 24 GB";
  }

  int64_t total() const { return cuda::device_properties(gpu_.index).bytes; }
  // By this process, where it is the only one.
  int64_t taken() const { return total() - cuda::free_bytes(gpu_.index); }

  void expect_plan(const char* what, const MemoryPlan& plan) const {
    const int64_t shown = taken();
    std::printf("%s: planned %s, taken %s (%+.2f %%); before it began %s\n", what, format_bytes(plan.total()).c_str(),
                format_bytes(shown).c_str(), 100.0 * static_cast<double>(shown - plan.total()) / shown,
                format_bytes(before_).c_str());
    EXPECT_NEAR(plan.total(), shown, 0.02 * static_cast<double>(shown));
  }

  Device gpu_;
  int64_t before_ = 0;
};

/// Layers of DeepSeek-V2-Lite: one with a dense feed-forward, the others with experts.
ModelConfig layers_of_v2_lite(int64_t layers) {
  ModelConfig c = named_model_config("v2-lite");
  c.num_hidden_layers = layers;
  return c;
}

TEST_F(MemoryOnGpu, TrainingTakesWhatIsPlanned) {
  const ModelConfig config = layers_of_v2_lite(2);
  TrainingEngineOptions options;
  options.device = gpu_;
  options.compute = DType::kBF16;
  options.seq_len = 2048;
  options.sequences = 1;
  options.report_lag = 1;
  const auto engine = testing::drawn_engine(config, options);
  for (int64_t step = 1; step <= 3; ++step) {  // op by op, captured, replayed
    const std::vector<PackedBatch> batches = {testing::random_batch(config, 1, 2048, 2 * step),
                                              testing::random_batch(config, 1, 2048, 2 * step + 1)};
    engine->begin_step(step, 1e-3, batches[0].target_count + batches[1].target_count, 2);
    for (const PackedBatch& batch : batches) engine->add_microbatch(batch);
    engine->end_step();
    engine->due_report();
    std::printf("training, behind step %d: %s\n", static_cast<int>(step), format_bytes(taken()).c_str());
  }
  engine->remaining_report();
  expect_plan("training", engine->plan());
}

TEST_F(MemoryOnGpu, GenerationTakesWhatIsPlanned) {
  const ModelConfig config = layers_of_v2_lite(8);
  ModelRunner runner(config, {.device = gpu_, .compute = DType::kBF16, .context_length = 4096, .sequences = 8});
  runner.allocate();
  runner.initialize(7);
  std::printf("generation, allocated: %s\n", format_bytes(taken()).c_str());
  // Every number of sequences has a graph of its own.
  std::vector<Sequence> sequences(8);
  for (int64_t step = 0; step < 24; ++step) {
    std::vector<ModelRunner::Rows> rows;
    for (int64_t s = 0; s <= step % 8; ++s) {
      Sequence& sequence = sequences[static_cast<size_t>(s)];
      const int64_t count = sequence.tokens.empty() ? 300 : 1;
      const std::vector<int32_t> next = testing::random_tokens(config, count, 100 * s + step);
      sequence.tokens.insert(sequence.tokens.end(), next.begin(), next.end());
      rows.push_back({&sequence, sequence.pending()});
    }
    runner.run(rows);
    if (step % 8 == 7) {
      std::printf("generation, behind batch %d: %s\n", static_cast<int>(step + 1), format_bytes(taken()).c_str());
    }
  }
  expect_plan("generation", runner.plan());
}

TEST_F(MemoryOnGpu, WhatOthersHoldIsSaidAndNothingIsTaken) {
  const MemoryBlock held("what others hold", gpu_, MemoryKind::kDevice,
                         cuda::free_bytes(gpu_.index) - int64_t{4'000'000'000});
  ModelRunner runner(layers_of_v2_lite(8),
                     {.device = gpu_, .compute = DType::kBF16, .context_length = 4096, .sequences = 8});
  EXPECT_FALSE(runner.fits());
  const int64_t free = cuda::free_bytes(gpu_.index);
  const std::string message = message_of([&] { runner.allocate(); });
  EXPECT_NE(message.find(" are available; other processes hold "), message.npos) << message;
  EXPECT_NE(message.find(" (nvidia-smi lists them); its largest arenas are prepared weights"), message.npos) << message;
  EXPECT_EQ(cuda::free_bytes(gpu_.index), free);
}

}  // namespace
}  // namespace deeptitan

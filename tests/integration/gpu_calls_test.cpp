// What steps ask of the CUDA driver, counted by CUPTI, with what libraries ask among it.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "generate/model_fixture.h"
#include "generate/model_runner.h"
#include "support/cuda_calls.h"
#include "support/gpu.h"
#include "support/wide_model.h"
#include "train/drawn_engine.h"

namespace deeptitan {
namespace {

using testing::CudaCalls;
using testing::random_batch;
using testing::wide_v3;

class CallsOnGpu : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    DT_TAKE_GPU(gpu_);
    if (!CudaCalls::library().problem().empty()) GTEST_SKIP() << "needs CUPTI: " << CudaCalls::library().problem();
  }
  Device gpu_;
};

constexpr int64_t kWarmSteps = 3;  // op by op, captured, replayed
constexpr int64_t kCountedSteps = 4;

TEST_P(CallsOnGpu, AStepOfTrainingAllocatesNothingAndWaitsForNothing) {
  const ModelConfig config = wide_v3();
  for (const bool graphs : {true, false}) {
    TrainingEngineOptions options;
    options.device = gpu_;
    options.compute = GetParam();
    options.seq_len = 24;
    options.sequences = 2;
    options.report_lag = 1;
    options.graphs = graphs;
    const auto engine = testing::drawn_engine(config, options);
    CudaCalls calls;
    CudaCalls::Counts counted;
    for (int64_t step = 1; step <= kWarmSteps + kCountedSteps; ++step) {
      const std::vector<PackedBatch> batches = {random_batch(config, 2, 24, 2 * step),
                                                random_batch(config, 2, 24, 2 * step + 1)};
      calls.take();
      engine->begin_step(step, 1e-3, batches[0].target_count + batches[1].target_count, 2);
      for (const PackedBatch& batch : batches) engine->add_microbatch(batch);
      engine->end_step();
      for (const auto& [name, count] : calls.take()) {
        if (step > kWarmSteps) counted[name] += count;
      }
      engine->due_report();  // of the step before, for which it may wait
    }
    const std::string all = CudaCalls::text(counted);
    std::printf("training, %s, %d steps: %s\n", graphs ? "with graphs" : "op by op", static_cast<int>(kCountedSteps),
                all.c_str());
    EXPECT_EQ(CudaCalls::text(CudaCalls::allocations(counted)), "none") << all;
    EXPECT_EQ(CudaCalls::text(CudaCalls::waits(counted)), "none") << all;
    // Its begin, the first microbatch, a later one, its end.
    EXPECT_EQ(counted["cuGraphLaunch"], graphs ? 4 * kCountedSteps : 0) << all;
  }
}

// Tokens are chosen where the logits lie, and come to the host: one wait for all of a batch.
TEST_P(CallsOnGpu, ATokenAllocatesNothingAndWaitsOnce) {
  const ModelConfig config = wide_v3();
  ModelRunner runner(config,
                     {.device = gpu_, .compute = GetParam(), .context_length = 64, .sequences = 2, .page_size = 16});
  runner.allocate();
  runner.initialize(7);
  std::vector<Sequence> sequences(2);
  CudaCalls calls;
  CudaCalls::Counts counted;
  for (int64_t step = 0; step < 1 + kWarmSteps + kCountedSteps; ++step) {
    std::vector<ModelRunner::Rows> rows;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const std::vector<int32_t> next = testing::random_tokens(config, step == 0 ? 5 : 1, 100 * (s + 1) + step);
      sequences[s].tokens.insert(sequences[s].tokens.end(), next.begin(), next.end());
      rows.push_back({&sequences[s], sequences[s].pending()});
    }
    std::vector<NextToken> next = {{.choice = TokenChoice{}},
                                   {.choice = TokenChoice{.temperature = 1, .top_p = 0.9, .top_k = 5}}};
    calls.take();
    runner.run(rows, next);
    for (const auto& [name, count] : calls.take()) {
      if (step > kWarmSteps) counted[name] += count;
    }
  }
  const std::string all = CudaCalls::text(counted);
  std::printf("decode, %d steps: %s\n", static_cast<int>(kCountedSteps), all.c_str());
  EXPECT_EQ(CudaCalls::text(CudaCalls::allocations(counted)), "none") << all;
  EXPECT_EQ(CudaCalls::text(CudaCalls::waits(counted)), fmt::format("{} cuStreamSynchronize", kCountedSteps)) << all;
  EXPECT_EQ(counted["cuGraphLaunch"], kCountedSteps) << all;
}

INSTANTIATE_TEST_SUITE_P(Types, CallsOnGpu, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& param) { return param.param == DType::kF32 ? "F32" : "Bf16"; });

}  // namespace
}  // namespace deeptitan

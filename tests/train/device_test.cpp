// Training steps on a GPU, beside the CPU's.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/run_checkpoints.h"
#include "core/error.h"
#include "core/file.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/tiny_model.h"
#include "support/wide_model.h"
#include "train/drawn_engine.h"
#include "train/training_checkpoint.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::random_batch;
using testing::relative_error;
using testing::tiny_v2;
using testing::tiny_v3;
using testing::wide_v3;

class TrainingOnGpu : public ::testing::Test {
 protected:
  void SetUp() override { DT_TAKE_GPU(gpu_); }
  Device gpu_;
};

std::unique_ptr<TrainingEngine> drawn_engine(const ModelConfig& config, Device device, DType compute,
                                             Recomputation what = Recomputation::kNothing,
                                             MomentsDtype moments = MomentsDtype::kFp32) {
  TrainingEngineOptions options;
  options.device = device;
  options.compute = compute;
  options.seq_len = 24;
  options.sequences = 2;
  options.recomputation = what;
  options.optimizer.moments_dtype = moments;
  return drawn_engine(config, options);
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
      // After the first step a load may differ by two choices between near ties, and a bias by two changes.
      const double one_choice = static_cast<double>(config.n_routed_experts) / (4 * 24.0 * config.num_experts_per_tok);
      for (int64_t step = 1; step <= 5; ++step) {
        const StepResult expected = run_step(*cpu, config, step);
        const StepResult found = run_step(*gpu, config, step);
        EXPECT_NEAR(found.loss, expected.loss, tolerance * expected.loss) << step;
        EXPECT_NEAR(found.gradient_norm, expected.gradient_norm, 10 * tolerance * expected.gradient_norm) << step;
        ASSERT_EQ(found.moe_layers.size(), expected.moe_layers.size());
        for (size_t i = 0; i < found.moe_layers.size() && compute == DType::kF32; ++i) {
          const auto& [gpu_layer, cpu_layer] = std::tie(found.moe_layers[i], expected.moe_layers[i]);
          EXPECT_NEAR(gpu_layer.load_max_over_mean, cpu_layer.load_max_over_mean, step == 1 ? 0 : 2 * one_choice)
              << step;
          EXPECT_NEAR(gpu_layer.bias_range, cpu_layer.bias_range, step == 1 ? 1e-6 : 2.1e-3) << step;
          EXPECT_NEAR(gpu_layer.aux_loss, cpu_layer.aux_loss, step == 1 ? 1e-5 : 1e-2) << step;
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
  const auto recomputed = drawn_engine(config, gpu_, DType::kBF16, Recomputation::kLayers);
  const auto cheaply = drawn_engine(config, gpu_, DType::kBF16, Recomputation::kCheap);
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult result = run_step(*first, config, step);
    EXPECT_EQ(result.loss, run_step(*second, config, step).loss);
    EXPECT_EQ(result.loss, run_step(*recomputed, config, step).loss);
    EXPECT_EQ(result.loss, run_step(*cheaply, config, step).loss);
  }
  EXPECT_EQ(all_values(*first), all_values(*second));
  EXPECT_EQ(all_values(*first), all_values(*recomputed));
  EXPECT_EQ(all_values(*first), all_values(*cheaply));
}

// Their sums have another order than those of one microbatch after another.
TEST_F(TrainingOnGpu, PairedWeightGradientsAreThoseOfBoth) {
  const ModelConfig config = wide_v3();
  const auto paired = [&] {
    TrainingEngineOptions options;
    options.device = gpu_;
    options.compute = DType::kBF16;
    options.seq_len = 24;
    options.sequences = 2;
    options.schedule = paired_weights_schedule();
    return drawn_engine(config, options);
  };
  const auto one_by_one = drawn_engine(config, gpu_, DType::kBF16);
  const auto first = paired(), second = paired();
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult expected = run_step(*one_by_one, config, step);
    const StepResult found = run_step(*first, config, step);
    EXPECT_NEAR(found.loss, expected.loss, (step == 1 ? 1e-6 : 1e-3) * expected.loss) << step;
    EXPECT_NEAR(found.gradient_norm, expected.gradient_norm, (step == 1 ? 1e-5 : 1e-2) * expected.gradient_norm);
    EXPECT_EQ(found.loss, run_step(*second, config, step).loss) << step;
  }
  EXPECT_EQ(all_values(*first), all_values(*second));
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

// Captured on the second step's batches and replayed on five others, with documents, targets, loads and learning rates
// of their own, one of which cannot be finite: no graph has the same bits.
TEST_F(TrainingOnGpu, GraphsHaveTheBitsOfTheirOps) {
  for (const ModelConfig& config : {tiny_v2(), tiny_v3(), wide_v3()}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const auto make = [&](bool graphs) {
        TrainingEngineOptions options;
        options.device = gpu_;
        options.compute = compute;
        options.seq_len = 24;
        options.sequences = 2;
        options.report_lag = 1;
        options.graphs = graphs;
        return drawn_engine(config, options);
      };
      const auto captured = make(true), by_ops = make(false);
      int64_t skipped = 0;
      for (int64_t step = 1; step <= 7; ++step) {
        std::vector<StepResult> results;
        for (TrainingEngine* engine : {captured.get(), by_ops.get()}) {
          // A step of one to three microbatches; one token alone, so that most experts are idle, in the sixth.
          std::vector<PackedBatch> batches;
          for (int64_t b = 0; b <= step % 3; ++b) batches.push_back(random_batch(config, 2, 24, 5 * step + b));
          if (step == 6) {
            for (PackedBatch& batch : batches) std::fill(batch.tokens.begin(), batch.tokens.end(), 3);
          }
          int64_t targets = 0;
          for (const PackedBatch& batch : batches) targets += batch.target_count;
          if (step == 5) batches[0].targets[3] = 1 << 20;  // of no vocabulary: its loss is NaN
          engine->begin_step(step, 1e-3 / static_cast<double>(step), targets, static_cast<int64_t>(batches.size()));
          for (const PackedBatch& batch : batches) engine->add_microbatch(batch);
          engine->end_step();
          if (const auto report = engine->due_report()) results.push_back(*report);
        }
        if (step == 1) {
          EXPECT_TRUE(results.empty()) << "one step late";
          continue;
        }
        ASSERT_EQ(results.size(), 2u);
        EXPECT_EQ(results[0].step, step - 1);
        EXPECT_EQ(std::bit_cast<int64_t>(results[0].loss), std::bit_cast<int64_t>(results[1].loss)) << step;
        EXPECT_EQ(std::bit_cast<int64_t>(results[0].gradient_norm), std::bit_cast<int64_t>(results[1].gradient_norm));
        skipped += results[0].finite ? 0 : 1;
        for (size_t i = 0; i < results[0].moe_layers.size(); ++i) {
          EXPECT_EQ(results[0].moe_layers[i].load_max_over_mean, results[1].moe_layers[i].load_max_over_mean);
          EXPECT_EQ(results[0].moe_layers[i].experts_without_tokens, results[1].moe_layers[i].experts_without_tokens);
        }
        EXPECT_EQ(all_values(*captured), all_values(*by_ops)) << step;
      }
      EXPECT_EQ(skipped, 1);
      EXPECT_EQ(captured->updates(), by_ops->updates());
    }
  }
}

// The update writes the rows that products want; preparing them anew from the masters changes nothing, also behind a
// step that is not applied.
TEST_F(TrainingOnGpu, UpdatesWriteWhatPreparingWould) {
  const ModelConfig config = wide_v3();
  for (const MomentsDtype moments : {MomentsDtype::kFp32, MomentsDtype::kBf16}) {
    const auto engine = drawn_engine(config, gpu_, DType::kBF16, Recomputation::kNothing, moments);
    const ParameterList& list = engine->model().parameters();
    const auto rows = [&] {
      std::vector<std::vector<bfloat16>> all;
      for (const Parameter& p : list.all()) {
        const Tensor prepared = list.rows_in_order(p);
        if (prepared.defined()) all.push_back(download<bfloat16>(prepared));
      }
      return all;
    };
    const auto at_first = rows();
    EXPECT_GT(at_first.size(), 10U);
    for (int64_t step = 1; step <= 4; ++step) {
      PackedBatch batch = random_batch(config, 2, 24, step);
      if (step == 3) batch.targets[3] = 1 << 20;  // of no vocabulary: its loss is NaN
      engine->begin_step(step, 1e-2, batch.target_count, 1);
      engine->add_microbatch(batch);
      EXPECT_EQ(engine->finish_step().finite, step != 3);
      const auto written = rows();
      engine->refresh();
      const auto prepared = rows();
      for (size_t i = 0; i < written.size(); ++i) {
        const auto same = [](bfloat16 a, bfloat16 b) { return a.bits == b.bits; };
        EXPECT_TRUE(std::equal(written[i].begin(), written[i].end(), prepared[i].begin(), same)) << step << " " << i;
        EXPECT_FALSE(std::equal(written[i].begin(), written[i].end(), at_first[i].begin(), same)) << step << " " << i;
      }
    }
  }
}

/// Lets the next microbatch's kernels read where nothing is: the GPU does nothing for this process afterwards.
void break_final_norm(TrainingEngine& engine) {
  Parameter* norm = engine.model().parameters().find("model.norm.weight");
  norm->value =
      Tensor(reinterpret_cast<void*>(uintptr_t{1} << 20), DType::kF32, {norm->numel()}, engine.options().device);
}

/// Ends the process with what `body` throws: 1, and the message on stderr.
template <typename Body>
[[noreturn]] void end_with_error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    std::_Exit(1);
  }
  std::_Exit(0);
}

using TrainingOnGpuDeathTest = TrainingOnGpu;

TEST_F(TrainingOnGpuDeathTest, AFaultNamesTheStepAndHowToFindTheOp) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a process that was forked cannot go on with CUDA
  const ModelConfig config = tiny_v3();
  const auto engine = drawn_engine(config, gpu_, DType::kBF16);
  EXPECT_EXIT(end_with_error_of([&] {
                run_step(*engine, config, 1);
                break_final_norm(*engine);
                // Its kernels are queued before one of them fails: the host is told of it later.
                run_step(*engine, config, 2);
              }),
              ::testing::ExitedWithCode(1),
              "step 2 failed on cuda:0, in its first microbatch: .*illegal memory access.*; the same command with "
              "--replay-step 2 repeats the step op by op, and names the op");
  EXPECT_EXIT(end_with_error_of([&] {
                break_final_norm(*engine);
                engine->set_check_finite(true);
                run_step(*engine, config, 1);
              }),
              ::testing::ExitedWithCode(1),
              "step 1 failed on cuda:0, in its first microbatch: .*rms_norm failed on cuda:0: .*illegal memory access");
}

// What a run leaves on one device goes on on the other: the same values, moments and bytes.
TEST_F(TrainingOnGpu, CheckpointsGoFromDeviceToDevice) {
  const ModelConfig config = tiny_v3();
  const auto folder = std::filesystem::temp_directory_path() / "deeptitan-device-test";
  std::filesystem::remove_all(folder);
  for (const auto& [first, second, moments] : {std::tuple{gpu_, Device{}, MomentsDtype::kFp32},
                                               {Device{}, gpu_, MomentsDtype::kFp32},
                                               {gpu_, Device{}, MomentsDtype::kBf16},
                                               {Device{}, gpu_, MomentsDtype::kBf16}}) {
    const auto from = drawn_engine(config, first, DType::kF32, Recomputation::kNothing, moments);
    for (int64_t step = 1; step <= 2; ++step) run_step(*from, config, step);
    save_checkpoint(folder / "one", {.step = 2, .tokens = 192, .data = {}, .config = "x"}, *from, {}, 1);
    const auto to = drawn_engine(config, second, DType::kF32, Recomputation::kNothing, moments);
    load_checkpoint(folder / "one" / checkpoint_name(2), *to);
    EXPECT_EQ(all_values(*from), all_values(*to));
    for (size_t i = 0; i < from->model().parameters().all().size(); ++i) {
      const Parameter& p = from->model().parameters().all()[i];
      const Parameter& q = to->model().parameters().all()[i];
      for (const std::string& slot : from->optimizer_slots()) {
        if (!p.gradient.defined() || moments == MomentsDtype::kBf16) continue;  // those the files below tell
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

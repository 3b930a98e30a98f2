// What a GPU generates and scores, beside the CPU.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/convert_directory.h"
#include "checkpoint/model_directory.h"
#include "config/model_config_json.h"
#include "generate/inference_engine.h"
#include "generate/model_fixture.h"
#include "generate/model_runner.h"
#include "generate/sampler.h"
#include "model/deepseek/checkpoint.h"
#include "support/compare.h"
#include "support/data_folder.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

class InferenceOnGpu : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { DT_TAKE_GPU(gpu_); }

  std::unique_ptr<InferenceEngine> engine(Device device, DType compute, int64_t prefill_chunk = 1024) const {
    const auto folder = testing::data_folder() / "golden" / "model" / GetParam();
    const ModelConfig config = load_model_config(folder);
    auto result = std::make_unique<InferenceEngine>(
        config, InferenceOptions{.device = device,
                                 .compute = compute,
                                 .context_length = std::min<int64_t>(96, config.max_position_embeddings),
                                 .prefill_chunk = prefill_chunk});
    result->allocate();
    result->load(ModelDirectory(folder));
    return result;
  }
  Device gpu_;
};

int32_t best_of(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<int32_t> greedy_text(InferenceEngine& engine, const std::vector<int32_t>& prompt, int64_t count) {
  std::vector<int32_t> text;
  std::span<const float> logits = engine.prefill(prompt);
  for (int64_t i = 0; i < count; ++i) {
    text.push_back(best_of(logits));
    logits = engine.decode(text.back());
  }
  return text;
}

TEST_P(InferenceOnGpu, GreedyTextIsTheCpus) {
  const auto cpu = engine({}, DType::kF32);
  const auto gpu = engine(gpu_, DType::kF32);
  const std::vector<int32_t> prompt = testing::random_tokens(cpu->config(), 20, 1);
  EXPECT_EQ(greedy_text(*gpu, prompt, 40), greedy_text(*cpu, prompt, 40));
}

TEST_P(InferenceOnGpu, ScoresAreTheCpus) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const auto cpu = engine({}, compute);
    const auto gpu = engine(gpu_, compute);
    const std::vector<int32_t> tokens = testing::random_tokens(cpu->config(), 61, 2);
    const std::vector<int32_t> inputs(tokens.begin(), tokens.end() - 1), targets(tokens.begin() + 1, tokens.end());
    std::vector<float> of_cpu(60), of_gpu(60);
    std::vector<int32_t> likeliest(60);
    cpu->score(inputs, targets, of_cpu, likeliest);
    gpu->score(inputs, targets, of_gpu, likeliest);
    EXPECT_LT(testing::relative_error(of_gpu, of_cpu),
              compute == DType::kF32 ? 1e-5 : 6e-2);  // in bf16 a router may fall to another expert
  }
}

TEST_P(InferenceOnGpu, DecodeGivesTheLogitsOfAWholePrompt) {
  if (GetParam() == "v2_dynamic") GTEST_SKIP() << "cached entries keep the rotation of a shorter length";
  const auto whole = engine(gpu_, DType::kF32);
  const auto chunked = engine(gpu_, DType::kF32, 7);
  const auto decoded = engine(gpu_, DType::kF32);
  const std::vector<int32_t> tokens = testing::random_tokens(whole->config(), 30, 3);
  const std::span<const float> expected = whole->prefill(tokens);
  const std::span<const float> in_chunks = chunked->prefill(tokens);
  std::span<const float> one_by_one = decoded->prefill({tokens.data(), 1});
  for (size_t i = 1; i < tokens.size(); ++i) one_by_one = decoded->decode(tokens[i]);
  const std::vector<float> reference(expected.begin(), expected.end());
  EXPECT_LT(testing::relative_error(std::vector<float>(in_chunks.begin(), in_chunks.end()), reference), 1e-5);
  EXPECT_LT(testing::relative_error(std::vector<float>(one_by_one.begin(), one_by_one.end()), reference), 1e-5);
}

// Two runners in step: one chooses tokens where the logits lie, the other brings them all to the host.
TEST_P(InferenceOnGpu, TokensChosenOnTheDeviceAreThoseOfItsLogits) {
  const auto folder = testing::data_folder() / "golden" / "model" / GetParam();
  const ModelConfig config = load_model_config(folder);
  std::vector<bool> allowed(config.vocab_size - 3, true);
  for (size_t t = 0; t < allowed.size(); t += 6) allowed[t] = false;
  std::vector<Sampler> samplers;
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = 0}, {.temperature = 0.7, .min_p = 0.01, .seed = 2}, {.top_p = 0.9, .seed = 3}}) {
    samplers.emplace_back(options, allowed);
  }
  ModelRunner choosing(config, {.device = gpu_,
                                .compute = DType::kBF16,
                                .context_length = std::min<int64_t>(96, config.max_position_embeddings),
                                .sequences = 3});
  ModelRunner bringing(config, choosing.options());
  for (ModelRunner* runner : {&choosing, &bringing}) {
    runner->allocate();
    runner->load(ModelDirectory(folder));
  }
  choosing.allow(allowed);
  std::vector<Sequence> sequences(std::min<int64_t>(3, choosing.batch_sequences()));
  for (size_t s = 0; s < sequences.size(); ++s) sequences[s].tokens = testing::random_tokens(config, 5, 40 + s);
  std::vector<Sequence> beside = sequences;
  const auto rows_of = [](std::vector<Sequence>& all) {
    std::vector<ModelRunner::Rows> rows;
    for (Sequence& sequence : all) rows.push_back({&sequence, sequence.pending()});
    return rows;
  };
  for (int64_t step = 0; step < 20; ++step) {
    std::vector<NextToken> next(sequences.size());
    for (size_t s = 0; s < sequences.size(); ++s) next[s].choice = samplers[s].choice(sequences[s].length());
    choosing.run(rows_of(sequences), next);
    const std::span<const float> logits = bringing.run(rows_of(beside));
    for (size_t s = 0; s < sequences.size(); ++s) {
      const std::span<const float> expected = logits.subspan(s * config.vocab_size, config.vocab_size);
      const int32_t token = samplers[s].sample(expected, sequences[s].tokens, sequences[s].length());
      if (next[s].choice) {
        EXPECT_EQ(next[s].token, token) << "step " << step << ", sequence " << s;
      } else {
        const std::span<const float> brought = choosing.logits(static_cast<int64_t>(s));
        EXPECT_EQ(next[s].token, -1);
        EXPECT_TRUE(std::equal(brought.begin(), brought.end(), expected.begin(), expected.end()));
      }
      for (std::vector<Sequence>* all : {&sequences, &beside}) (*all)[s].tokens.push_back(token);
    }
  }
}

// A graph is captured on the second token and replayed on those behind it, across pages of the cache.
TEST_P(InferenceOnGpu, GraphsHaveTheBitsOfTheirOps) {
  const auto folder = testing::data_folder() / "golden" / "model" / GetParam();
  const ModelConfig config = load_model_config(folder);
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    std::vector<std::vector<float>> found;
    for (const bool graphs : {true, false}) {
      ModelRunner runner(config, {.device = gpu_,
                                  .compute = compute,
                                  .context_length = std::min<int64_t>(96, config.max_position_embeddings),
                                  .sequences = 3,
                                  .page_size = 4,
                                  .graphs = graphs});
      runner.allocate();
      runner.load(ModelDirectory(folder));
      std::vector<Sequence> sequences(std::min<int64_t>(3, runner.batch_sequences()));
      std::vector<float>& all = found.emplace_back();
      for (int64_t step = 0; step < 9; ++step) {
        std::vector<ModelRunner::Rows> rows;
        for (size_t s = 0; s < sequences.size(); ++s) {
          const int64_t count = step == 0 ? 3 + 2 * static_cast<int64_t>(s) : 1;
          const std::vector<int32_t> next = testing::random_tokens(config, count, 100 * (s + 1) + step);
          sequences[s].tokens.insert(sequences[s].tokens.end(), next.begin(), next.end());
          if (step == 6 && s == 1) continue;  // two of them, then all again
          rows.push_back({&sequences[s], sequences[s].pending()});
        }
        const std::span<const float> logits = runner.run(rows);
        all.insert(all.end(), logits.begin(), logits.end());
      }
    }
    EXPECT_EQ(found[0], found[1]);
  }
}

// Prompts of so many tokens that they are captured, with sequences that decode before or behind them. What is looked at
// runs op by op; a graph is captured the second time and replayed with other tokens behind it.
TEST(PromptsOnGpu, HaveTheBitsOfTheirOps) {
  Device gpu;
  DT_TAKE_GPU(gpu);
  for (ModelConfig config : {testing::tiny_v2(), testing::tiny_v3()}) {
    config.max_position_embeddings = 1024;
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      enum Form { kGraphs, kOps, kLookedAt };
      std::vector<std::vector<float>> found;
      for (const Form form : {kGraphs, kOps, kLookedAt}) {
        ModelRunner runner(config, {.device = gpu,
                                    .compute = compute,
                                    .sequences = 3,
                                    .prefill_chunk = 300,
                                    .batch_tokens = 700,
                                    .graphs = form == kGraphs});
        runner.allocate();
        runner.initialize(1);
        runner.set_check_finite(form == kLookedAt);
        std::vector<float>& all = found.emplace_back();
        for (uint64_t step = 0; step < 5; ++step) {
          for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{300}, {5, 290, 70}, {290, 5}}) {
            std::vector<Sequence> sequences(lengths.size());
            std::vector<ModelRunner::Rows> rows;
            for (size_t s = 0; s < lengths.size(); ++s) {
              sequences[s].tokens = testing::random_tokens(config, lengths[s], 100 * (s + 1) + step);
              rows.push_back({&sequences[s], lengths[s]});
            }
            const std::span<const float> logits = runner.run(rows);
            all.insert(all.end(), logits.begin(), logits.end());
            for (Sequence& sequence : sequences) runner.release(sequence);
          }
        }
      }
      EXPECT_EQ(found[kGraphs], found[kOps]);
      EXPECT_EQ(found[kOps], found[kLookedAt]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, InferenceOnGpu,
                         ::testing::Values("v2_lite", "v2_grouped", "v2_dynamic", "v3_grouped", "v3_halves",
                                           "v3_tied_with_biases"),
                         [](const auto& parameter) { return parameter.param; });

// Experts 256 x 144 wide: of the fp8 directory gate and up, of 128 rows each, are taken as they are stored.
class ExpertsOnGpu : public ::testing::TestWithParam<GroupedGemmStrategy> {
 protected:
  void SetUp() override {
    DT_TAKE_GPU(gpu_);
    const std::vector<GroupedGemmStrategy> available = expert_strategies(gpu_);
    if (std::find(available.begin(), available.end(), GetParam()) == available.end()) {
      GTEST_SKIP() << "this GPU has " << grouped_gemm_strategy_names(available);
    }
    config_ = testing::tiny_v3();
    config_.hidden_size = 144;
    config_.moe_intermediate_size = 128;
    // Every token takes every expert: no rounding can choose another one.
    config_.num_experts_per_tok = config_.n_routed_experts;
    config_.n_group = config_.topk_group = 1;
    const testing::DrawnModel drawn(config_);
    std::filesystem::create_directories(folder_.path() / "bf16");
    save_model(folder_.path() / "bf16", drawn.model, DType::kBF16);
    convert("bf16", "fp8", DType::kF8E4M3);
    convert("fp8", "widened", DType::kBF16);
  }
  void convert(const char* from, const char* to, DType dtype) const {
    ConvertOptions options;
    options.dtype = dtype;
    convert_directory(folder_.path() / from, folder_.path() / to, options);
  }

  // Of a prompt of 40 tokens and of eight that follow, of which all but the first two run as a graph where one can be.
  std::vector<float> logits(const char* directory, std::optional<GroupedGemmStrategy> experts) const {
    InferenceEngine engine(config_, {.device = gpu_, .compute = DType::kBF16, .experts = experts});
    engine.allocate();
    engine.load(ModelDirectory(folder_.path() / directory));
    const std::vector<int32_t> tokens = testing::random_tokens(config_, 48, 5);
    std::vector<float> all;
    std::span<const float> found = engine.prefill(std::span(tokens).first(40));
    all.insert(all.end(), found.begin(), found.end());
    for (int64_t i = 40; i < 48; ++i) {
      found = engine.decode(tokens[i]);
      all.insert(all.end(), found.begin(), found.end());
    }
    return all;
  }

  Device gpu_;
  ModelConfig config_;
  TemporaryFolder folder_;
};

TEST_P(ExpertsOnGpu, GiveTheLogitsOfTheirWeights) {
  const bool fp8 = GetParam() == GroupedGemmStrategy::kFp8Blockwise || GetParam() == GroupedGemmStrategy::kFp8Rowwise;
  // bf16 rounds to 2^-9 in another place; e4m3 to 2^-4, weights and activations.
  const double tolerance = fp8 ? 0.15 : 5e-2;
  for (const char* directory : {"bf16", "fp8"}) {
    const std::vector<float> reference = logits(directory[0] == 'f' ? "widened" : directory, std::nullopt);
    const std::vector<float> found = logits(directory, GetParam());
    const double distance = testing::relative_error(found, reference);
    EXPECT_LT(distance, tolerance) << directory;
    EXPECT_TRUE(!fp8 || distance > 2e-3) << directory << ": nothing was rounded to fp8, " << distance;
    EXPECT_EQ(found, logits(directory, GetParam())) << "two runs differ";
  }
}

INSTANTIATE_TEST_SUITE_P(AllStrategies, ExpertsOnGpu,
                         ::testing::Values(GroupedGemmStrategy::kLoop, GroupedGemmStrategy::kBf16,
                                           GroupedGemmStrategy::kFp8Rowwise, GroupedGemmStrategy::kFp8Blockwise),
                         [](const auto& parameter) {
                           return std::string(grouped_gemm_strategy_name(parameter.param));
                         });

TEST(Experts, AStrategyNeedsAGpuAndExperts) {
  ModelConfig config = testing::tiny_v3();
  const InferenceOptions options{.experts = GroupedGemmStrategy::kFp8Blockwise};
  expect_usage_error([&] { InferenceEngine(config, options); },
                     "experts' products by fp8_blockwise cannot run on the CPU; use auto");
  config.n_routed_experts = 0;
  expect_usage_error(
      [&] { InferenceEngine(config, options); },
      "experts' products by fp8_blockwise were asked for, and the model has no experts; leave it at auto");
}

}  // namespace
}  // namespace deeptitan

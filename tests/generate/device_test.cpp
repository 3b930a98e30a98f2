// What a GPU generates and scores, beside the CPU.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "config/model_config_json.h"
#include "core/device_choice.h"
#include "generate/inference_engine.h"
#include "generate/model_fixture.h"
#include "generate/model_runner.h"
#include "support/compare.h"
#include "support/data_folder.h"

namespace deeptitan {
namespace {

class InferenceOnGpu : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const DeviceChoice choice = choose_device("auto");
    if (choice.device.kind == DeviceKind::kCpu) GTEST_SKIP() << "needs a GPU; runs on " << choice.description;
    gpu_ = choice.device;
  }

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

INSTANTIATE_TEST_SUITE_P(Cases, InferenceOnGpu,
                         ::testing::Values("v2_lite", "v2_grouped", "v2_dynamic", "v3_grouped", "v3_halves",
                                           "v3_tied_with_biases"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace deeptitan

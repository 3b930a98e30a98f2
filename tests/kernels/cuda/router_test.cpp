#include "kernels/cuda/router/router.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/router/router.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/test_sizes.h"

namespace deeptitan::cuda {
namespace {

std::vector<RouterOptions> many_options() {
  using enum RouterScoring;
  using enum RouterSelection;
  return {
      {kSigmoid, kGroupsByTwoBest, 256, 8, 8, 4, true, 2.5f},  // DeepSeek-V3
      {kSoftmax, kGroupsByBest, 160, 6, 8, 3, false, 16.0f},   // DeepSeek-V2: a group's experts do not fill whole lanes
      {kSoftmax, kTopK, 64, 6, 1, 1, false, 1.0f},             // DeepSeek-V2-Lite
      {kSigmoid, kGroupsByTwoBest, 384, 8, 1, 1, true, 2.827f},  // one group, the most experts
      {kSigmoid, kGroupsByTwoBest, 384, 32, 8, 4, true, 1.0f},
      {kSigmoid, kGroupsByTwoBest, 384, 8, 32, 5, false, 1.0f},
      {kSigmoid, kGroupsByTwoBest, 256, 8, 8, 8, true, 2.5f},
      {kSigmoid, kGroupsByTwoBest, 256, 9, 8, 5, true, 2.5f},  // more candidates than four a lane
      {kSoftmax, kGroupsByBest, 256, 8, 16, 2, true, 1.0f},
      {kSoftmax, kGroupsByBest, 128, 4, 4, 1, false, 1.0f},
      {kSoftmax, kGroupsByBest, 96, 6, 32, 3, false, 1.0f},
      {kSigmoid, kGroupsByTwoBest, 16, 4, 4, 2, true, 1.0f},   // tiny
      {kSigmoid, kGroupsByTwoBest, 12, 3, 12, 5, true, 1.0f},  // groups of one
      {kSigmoid, kGroupsByTwoBest, 7, 3, 7, 4, false, 1.0f},
      {kSoftmax, kTopK, 383, 9, 1, 1, true, 3.0f},
      {kSoftmax, kTopK, 1, 1, 1, 1, true, 1.0f},
      {kSoftmax, kTopK, 130, 1, 1, 1, true, 1.0f},
      // Each part by itself: combinations that no DeepSeek has.
      {kSigmoid, kTopK, 64, 6, 1, 1, true, 2.5f},
      {kSigmoid, kGroupsByBest, 160, 6, 8, 3, true, 2.5f},
      {kSoftmax, kGroupsByTwoBest, 256, 8, 8, 4, true, 1.0f},
  };
}

std::vector<float> random_logits(size_t count, unsigned seed, bool wild) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  const float infinity = std::numeric_limits<float>::infinity();
  const float special[] = {std::nanf(""), -std::nanf(""), infinity, -infinity, 0.0f, -1e30f};
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(random);
    if (wild && random() % 8 == 0) value = special[random() % 6];
    if (!wild) value = std::round(value * 64) / 64;  // ties
  }
  return values;
}

/// Equal, a NaN being equal to every NaN.
bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) return false;
  }
  return true;
}

TEST(CudaRouter, ForwardAndBackwardEqualTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  DeviceBuffer<char> workspace(kRouterWorkspaceBytes);
  workspace.upload(std::vector<char>(kRouterWorkspaceBytes, 0));
  unsigned seed = 0;
  for (const RouterOptions& options : many_options()) {
    const int experts = options.experts;
    const int top_k = options.top_k;
    for (const int64_t tokens : {0, 1, 33, 9001}) {
      if (only_small_sizes() && tokens > 33) continue;
      for (const bool wild : {false, true}) {
        const std::vector<float> logits = random_logits(tokens * experts, ++seed, wild);
        const std::vector<float> bias = random_logits(experts, ++seed, false);
        const bool with_bias = seed % 4 != 0;
        std::vector<int32_t> index(tokens * top_k), counts(experts);
        std::vector<float> weight(tokens * top_k), scores(tokens * experts);
        cpu::route_tokens(index.data(), weight.data(), scores.data(), counts.data(), logits.data(),
                          with_bias ? bias.data() : nullptr, tokens, options);

        DeviceBuffer<float> device_logits(logits), device_bias(bias), device_weight(weight.size()),
            device_scores(scores.size());
        DeviceBuffer<int32_t> device_index(index.size()), device_counts(counts.size());
        const std::string what = std::to_string(experts) + " experts, top " + std::to_string(top_k) + ", " +
                                 std::to_string(tokens) + " tokens" + (wild ? ", wild" : "");
        for (const bool with_scores : {true, false}) {
          route_tokens(device_index.get(), device_weight.get(), with_scores ? device_scores.get() : nullptr,
                       device_counts.get(), device_logits.get(), with_bias ? device_bias.get() : nullptr, tokens,
                       options, workspace.get(), nullptr);
          ASSERT_TRUE(same_floats(device_scores.download(), scores)) << what;
          ASSERT_EQ(device_index.download(), index) << what;
          ASSERT_TRUE(same_floats(device_weight.download(), weight)) << what;
          ASSERT_EQ(device_counts.download(), counts) << what;
        }
        route_tokens_to_given_experts(device_weight.get(), device_scores.get(), device_counts.get(),
                                      device_logits.get(), device_index.get(), tokens, options, workspace.get(),
                                      nullptr);
        ASSERT_TRUE(same_floats(device_scores.download(), scores)) << what;
        ASSERT_TRUE(same_floats(device_weight.download(), weight)) << what;
        ASSERT_EQ(device_counts.download(), counts) << what;

        const std::vector<float> d_weight = random_logits(tokens * top_k, ++seed, false);
        const std::vector<float> d_scores = random_logits(tokens * experts, ++seed, false);
        DeviceBuffer<float> device_d_weight(d_weight), device_d_scores(d_scores), device_d_logits(logits.size());
        for (const bool with_scores : {true, false}) {
          std::vector<float> d_logits(logits.size());
          cpu::route_tokens_backward(d_logits.data(), d_weight.data(), with_scores ? d_scores.data() : nullptr,
                                     scores.data(), index.data(), tokens, options);
          route_tokens_backward(device_d_logits.get(), device_d_weight.get(),
                                with_scores ? device_d_scores.get() : nullptr, device_scores.get(), device_index.get(),
                                tokens, options, nullptr);
          ASSERT_TRUE(same_floats(device_d_logits.download(), d_logits)) << what;
        }
      }
    }
  }
  EXPECT_EQ(workspace.download(), std::vector<char>(kRouterWorkspaceBytes, 0));
}

const RouterOptions kDeepSeekV3{RouterScoring::kSigmoid, RouterSelection::kGroupsByTwoBest, 256, 8, 8, 4, true, 2.5f};

/// Routes `logits` [tokens, 256] as DeepSeek-V3 does, with and without keeping the scores; an empty bias is none.
void expect_same_as_the_cpu(const std::vector<float>& logits, const std::vector<float>& bias, const std::string& what) {
  const auto tokens = static_cast<int64_t>(logits.size()) / 256;
  std::vector<int32_t> index(tokens * 8), counts(256);
  std::vector<float> weight(tokens * 8), scores(tokens * 256);
  cpu::route_tokens(index.data(), weight.data(), scores.data(), counts.data(), logits.data(),
                    bias.empty() ? nullptr : bias.data(), tokens, kDeepSeekV3);
  DeviceBuffer<char> workspace(std::vector<char>(kRouterWorkspaceBytes, 0));
  DeviceBuffer<float> device_logits(logits), device_bias(bias), device_weight(tokens * 8), device_scores(tokens * 256);
  DeviceBuffer<int32_t> device_index(tokens * 8), device_counts(256);
  for (const bool with_scores : {true, false}) {
    route_tokens(device_index.get(), device_weight.get(), with_scores ? device_scores.get() : nullptr,
                 device_counts.get(), device_logits.get(), bias.empty() ? nullptr : device_bias.get(), tokens,
                 kDeepSeekV3, workspace.get(), nullptr);
    ASSERT_EQ(device_index.download(), index) << what;
    ASSERT_TRUE(same_floats(device_weight.download(), weight)) << what;
    ASSERT_TRUE(same_floats(device_scores.download(), scores)) << what;
    ASSERT_EQ(device_counts.download(), counts) << what;
  }
  EXPECT_EQ(workspace.download(), std::vector<char>(kRouterWorkspaceBytes, 0)) << what;
}

/// DeepSeek-V3's experts are chosen by approximate ranks and again exactly where these are too close: rows and biases
/// that put the ranks within a few units of each other, or break them, must not show.
TEST(CudaRouter, RanksCloserThanTheirApproximationAreChosenExactly) {
  DT_SKIP_WITHOUT_GPU();
  const float infinity = std::numeric_limits<float>::infinity();
  const int64_t tokens = 3001;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> logits(tokens * 256);
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = &logits[t * 256];
    for (int e = 0; e < 256; ++e) row[e] = normal(random);
    const float base = 2.0f + normal(random);
    const int close = static_cast<int>(random() % 40);
    for (int i = 0; i < close; ++i) {  // a few units in the last place apart, or a few millionths
      float& value = row[random() % 256];
      value = random() % 2 == 0 ? base + static_cast<float>(random() % 8) * 1e-6f : base;
      for (unsigned step = random() % 4; step > 0; --step) value = std::nextafter(value, infinity);
    }
    if (t % 5 == 0) {  // nearly all of the best beside each other
      const int first = static_cast<int>(random() % 31) * 8 + static_cast<int>(random() % 3);
      for (int i = 0; i < 8; ++i) row[first + i] = 5.0f + normal(random);
    }
    if (t % 97 == 0) row[random() % 256] = std::nanf("");
  }
  std::vector<std::vector<float>> biases(9, std::vector<float>(256));
  for (int e = 0; e < 256; ++e) {
    biases[1][e] = 0.1f * normal(random);
    biases[2][e] = -3.0f + normal(random);
    biases[3][e] = 1e6f * normal(random);
    biases[6][e] = 1e38f * normal(random);
    biases[7][e] = 1e-38f * normal(random);
    biases[8][e] = e % 2 == 0 ? 0.49999997f : -0.49999997f;  // 1 + 2 |bias| just below a power of two
  }
  biases[4] = biases[1];
  biases[4][17] = infinity;
  biases[4][40] = -infinity;
  biases[5] = biases[1];
  biases[5][200] = std::nanf("");
  for (const std::vector<float>& bias : biases) {
    expect_same_as_the_cpu(logits, bias, "bias " + std::to_string(&bias - biases.data()));
  }
}

/// Every fill of a warp's four tokens, of the blocks, of their warps, and of the ring of logits with its refills.
TEST(CudaRouter, AnyNumberOfTokens) {
  DT_SKIP_WITHOUT_GPU();
  unsigned seed = 100;
  for (const int64_t tokens : {0, 1, 2, 3, 4, 5, 7, 131, 132, 133, 527, 528, 529, 2113, 8447, 8449, 16897, 50001}) {
    if (only_small_sizes() && tokens > 529) continue;
    std::mt19937 random(++seed);
    std::normal_distribution<float> normal;
    std::vector<float> logits(tokens * 256), bias(tokens % 2 * 256);
    for (float& value : logits) value = normal(random);
    for (float& value : bias) value = 0.1f * normal(random);
    expect_same_as_the_cpu(logits, bias, std::to_string(tokens) + " tokens");
  }
}

TEST(CudaRouter, RowsThatTheApproximationCannotRank) {
  DT_SKIP_WITHOUT_GPU();
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::nanf("");
  const int64_t tokens = 403;
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  const auto rows = [&](const auto& value) {
    std::vector<float> logits(tokens * 256);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int e = 0; e < 256; ++e) logits[t * 256 + e] = value(t, e);
    }
    return logits;
  };
  std::vector<float> bias(256), large_bias(256);
  for (int e = 0; e < 256; ++e) {
    bias[e] = 0.1f * normal(random);
    large_bias[e] = 1e3f * normal(random);
  }
  // NaN and infinities everywhere; nothing else than them; saturated scores; the best in one group, in half of one, in
  // eight neighbours; a NaN that the bias would make the best of its group.
  const std::vector<std::vector<float>> cases = {
      rows([&](int64_t, int) { return random() % 8 == 0   ? nan
                                      : random() % 7 == 0 ? infinity
                                                          : normal(random); }),
      rows([&](int64_t, int) { return nan; }),
      rows([&](int64_t, int) { return -infinity; }),
      rows([&](int64_t, int e) { return e % 3 == 0 ? infinity : -infinity; }),
      rows([&](int64_t, int) { return 50.0f * normal(random); }),
      rows([&](int64_t t, int e) { return (e / 32 == t % 8 ? 6.0f : 0.0f) + normal(random); }),
      rows([&](int64_t t, int e) { return (e / 16 == t % 16 ? 6.0f : 0.0f) + normal(random); }),
      rows([&](int64_t t, int e) { return (e >= t % 249 && e < t % 249 + 8 ? 6.0f : 0.0f) + normal(random); }),
      rows([&](int64_t t, int e) { return e == t % 256 ? nan : normal(random); }),
      rows([&](int64_t, int e) { return e % 32 < 30 ? nan : normal(random); }),
  };
  for (const std::vector<float>& logits : cases) {
    const std::string what = "case " + std::to_string(&logits - cases.data());
    expect_same_as_the_cpu(logits, {}, what);
    expect_same_as_the_cpu(logits, bias, what + ", bias");
    expect_same_as_the_cpu(logits, large_bias, what + ", large bias");
  }
}

TEST(CudaRouter, AllTokensOnTheSameExperts) {
  DT_SKIP_WITHOUT_GPU();
  const int64_t tokens = 5000;
  DeviceBuffer<char> workspace(std::vector<char>(kRouterWorkspaceBytes, 0));
  DeviceBuffer<float> logits(std::vector<float>(tokens * 256, 0.0f)), weight(tokens * 8);
  DeviceBuffer<int32_t> index(tokens * 8), counts(256);
  route_tokens(index.get(), weight.get(), nullptr, counts.get(), logits.get(), nullptr, tokens, kDeepSeekV3,
               workspace.get(), nullptr);
  std::vector<int32_t> expected(256, 0);
  for (int e = 0; e < 8; ++e) expected[e] = static_cast<int32_t>(tokens);
  EXPECT_EQ(counts.download(), expected);
  for (const float w : weight.download()) ASSERT_EQ(w, 2.5f / 8);
}

TEST(CudaRouter, ReplaysFromAGraphWithTheSameBits) {
  DT_SKIP_WITHOUT_GPU();
  const int64_t tokens = 4000;
  const std::vector<float> logits = random_logits(tokens * 256, 77, false);
  DeviceBuffer<char> workspace(std::vector<char>(kRouterWorkspaceBytes, 0));
  DeviceBuffer<float> device_logits(logits), weight(tokens * 8), scores(tokens * 256);
  DeviceBuffer<int32_t> index(tokens * 8), counts(256);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  DT_CUDA_CHECK(cudaStreamCreate(&stream));
  DT_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  route_tokens(index.get(), weight.get(), scores.get(), counts.get(), device_logits.get(), nullptr, tokens, kDeepSeekV3,
               workspace.get(), stream);
  DT_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  DT_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  std::vector<float> first_weight;
  std::vector<int32_t> first_counts;
  for (int run = 0; run < 3; ++run) {
    DT_CUDA_CHECK(cudaGraphLaunch(executable, stream));
    DT_CUDA_CHECK(cudaStreamSynchronize(stream));
    if (run == 0) {
      first_weight = weight.download();
      first_counts = counts.download();
    }
    EXPECT_TRUE(same_bytes(weight.download(), first_weight));
    EXPECT_EQ(counts.download(), first_counts);
  }
  DT_CUDA_CHECK(cudaGraphExecDestroy(executable));
  DT_CUDA_CHECK(cudaGraphDestroy(graph));
  DT_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace deeptitan::cuda

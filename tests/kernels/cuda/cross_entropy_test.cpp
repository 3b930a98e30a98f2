#include "kernels/cuda/loss/cross_entropy.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/cpu/loss/cross_entropy.h"
#include "kernels/cpu/optimizer/adamw.h"
#include "kernels/cuda/optimizer/adamw.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

/// Targets of which every fifth bears no loss.
std::vector<int32_t> draw_targets(int64_t rows, int64_t vocab) {
  std::vector<int32_t> targets(rows);
  for (int64_t r = 0; r < rows; ++r) {
    targets[r] = r % 5 == 3 ? cpu::kIgnoredTarget : static_cast<int32_t>(random_bits(40, r) % vocab);
  }
  return targets;
}

template <typename T>
class CrossEntropy : public OverElementTypes<T> {};
TYPED_TEST_SUITE(CrossEntropy, ElementTypes, ElementName);

TYPED_TEST(CrossEntropy, LossAndGradient) {
  using T = TypeParam;
  for (const auto& [rows, vocab] : {std::pair<int64_t, int64_t>{1, 1}, {40, 77}, {33, 9001}}) {
    const int64_t ld = vocab + 3;
    const auto logits = random_elements<float>(rows * ld, 41, 4.0f);
    const std::vector<int32_t> targets = draw_targets(rows, vocab);
    std::vector<float> loss(rows);
    std::vector<T> d_logits(rows * vocab);
    cpu::softmax_cross_entropy(loss.data(), d_logits.data(), vocab, logits.data(), ld, targets.data(), 0.25f, rows,
                               vocab);
    DeviceBuffer<float> device_logits(logits), device_loss(rows);
    DeviceBuffer<T> device_d_logits(rows * vocab);
    DeviceBuffer<int32_t> device_targets(targets);
    softmax_cross_entropy(device_loss.get(), device_d_logits.get(), vocab, device_logits.get(), ld,
                          device_targets.get(), 0.25f, rows, vocab, nullptr);
    EXPECT_LT(relative_difference(device_loss.download(), loss), 2e-6);
    EXPECT_LT(relative_difference(device_d_logits.download(), d_logits), kOrderOfSums<T>);
    softmax_cross_entropy(device_loss.get(), static_cast<T*>(nullptr), 0, device_logits.get(), ld, device_targets.get(),
                          0.25f, rows, vocab, nullptr);
    EXPECT_LT(relative_difference(device_loss.download(), loss), 2e-6) << "without gradient";
    if constexpr (std::is_same_v<T, float>) {
      softmax_cross_entropy(device_loss.get(), device_logits.get(), ld, device_logits.get(), ld, device_targets.get(),
                            0.25f, rows, vocab, nullptr);
      const std::vector<float> in_place = device_logits.download();
      std::vector<float> dense;
      for (int64_t r = 0; r < rows; ++r) {
        dense.insert(dense.end(), &in_place[r * ld], &in_place[r * ld] + vocab);
      }
      EXPECT_LT(relative_difference(dense, d_logits), kOrderOfSums<T>) << "in place";
    }
  }
}

TEST(TokenLogprobs, TiesGoToTheLowestAndNaNIsSeen) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 20, kVocab = 1031;
  auto logits = random_elements<float>(kRows * kVocab, 42);
  logits[5 * kVocab + 700] = logits[5 * kVocab + 300] = logits[5 * kVocab + 1030] = 9.0f;
  logits[6 * kVocab + 20] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> targets = draw_targets(kRows, kVocab);
  std::vector<float> logprob(kRows);
  std::vector<int32_t> argmax(kRows);
  cpu::token_logprobs(logprob.data(), argmax.data(), logits.data(), kVocab, targets.data(), kRows, kVocab);
  DeviceBuffer<float> device_logits(logits), device_logprob(kRows);
  DeviceBuffer<int32_t> device_argmax(kRows), device_targets(targets);
  token_logprobs(device_logprob.get(), device_argmax.get(), device_logits.get(), kVocab, device_targets.get(), kRows,
                 kVocab, nullptr);
  const std::vector<float> found = device_logprob.download();
  const std::vector<int32_t> best = device_argmax.download();
  EXPECT_EQ(best[5], 300);
  for (int64_t r = 0; r < kRows; ++r) {
    if (r == 6) {
      EXPECT_TRUE(std::isnan(found[r]));
      continue;
    }
    EXPECT_EQ(best[r], argmax[r]) << r;
    EXPECT_NEAR(found[r], logprob[r], 2e-6 * std::fabs(logprob[r]) + 1e-6) << r;
  }
}

TEST(Sums, AreThoseOfDoublesAndTheSameEachTime) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t n : {0, 1, 1000, 1'234'567}) {
    const auto x = random_elements<float>(n, 43);
    double sum = 0, squares = 0;
    for (const float value : x) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    DeviceBuffer<float> device(x);
    DeviceBuffer<double> result(2), workspace(kSumWorkspace);
    sum_fixed_order(result.get(), device.get(), n, workspace.get(), nullptr);
    sum_of_squares(result.get() + 1, device.get(), n, workspace.get(), nullptr);
    const std::vector<double> first = result.download();
    EXPECT_NEAR(first[0], sum, 1e-9 * (1 + n));
    EXPECT_NEAR(first[1], squares, 1e-12 * (1 + squares));
    sum_fixed_order(result.get(), device.get(), n, workspace.get(), nullptr);
    sum_of_squares(result.get() + 1, device.get(), n, workspace.get(), nullptr);
    EXPECT_TRUE(same_bytes(result.download(), first)) << n;
  }
}

TEST(AdamW, HasTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kCount = 100'003;
  auto parameter = random_elements<float>(kCount, 44), m = random_elements<float>(kCount, 45, 0.1f);
  auto v = random_elements<float>(kCount, 46, 0.1f);
  for (float& value : v) value *= value;
  DeviceBuffer<float> device_parameter(parameter), device_m(m), device_v(v);
  for (const int64_t step : {1, 2, 1000}) {
    const auto gradient = random_elements<float>(kCount, 47 + step);
    DeviceBuffer<float> device_gradient(gradient);
    cpu::adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), kCount, 3e-4, 0.1, 0.37f, step, {});
    adamw_update(device_parameter.get(), device_m.get(), device_v.get(), device_gradient.get(), kCount, 3e-4, 0.1,
                 0.37f, step, {}, nullptr);
    EXPECT_TRUE(same_bytes(device_parameter.download(), parameter)) << step;
    EXPECT_TRUE(same_bytes(device_m.download(), m)) << step;
    EXPECT_TRUE(same_bytes(device_v.download(), v)) << step;
  }
}

}  // namespace
}  // namespace deeptitan::cuda

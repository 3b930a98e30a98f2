#include "kernels/cpu/loss/cross_entropy.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

struct Shape {
  int64_t rows, vocab, ld;
};
constexpr Shape kShapes[] = {{1, 1, 1}, {3, 7, 9}, {5, 33, 33}, {40, 4096, 4096}, {3, 1029, 1040}, {5, 8199, 8200}};

/// Every fourth row is ignored; the first and the last token are among the targets.
std::vector<int32_t> targets_of(Shape shape) {
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t target = r % 3 == 0 ? shape.vocab - 1 : r * 97 % shape.vocab;
    targets.push_back(r % 4 == 1 ? kIgnoredTarget : static_cast<int32_t>(target));
  }
  return targets;
}

double log_sum_exp(const std::vector<double>& row) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0.0;
  for (const double logit : row) sum += std::exp(logit - max);
  return std::log(sum) + max;
}

double reference_loss(const std::vector<double>& row, int32_t target) {
  return log_sum_exp(row) - row[static_cast<size_t>(target)];
}

std::vector<double> row_of(const std::vector<float>& logits, Shape shape, int64_t r) {
  const auto begin = logits.begin() + r * shape.ld;
  return {begin, begin + shape.vocab};
}

template <typename T>
class SoftmaxCrossEntropy : public ::testing::Test {};
TYPED_TEST_SUITE(SoftmaxCrossEntropy, ElementTypes);

TYPED_TEST(SoftmaxCrossEntropy, MatchesTheReference) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const float scale = 0.25f;
      const auto logits = random_normal<float>(shape.rows * shape.ld, 1, 5.0);
      const auto targets = targets_of(shape);
      std::vector<float> loss(static_cast<size_t>(shape.rows)), loss_alone(loss);
      const int64_t ld_d = shape.vocab + 3;
      std::vector<T> d_logits(static_cast<size_t>(shape.rows * ld_d), rounded<T>(7.0));
      softmax_cross_entropy(loss.data(), d_logits.data(), ld_d, logits.data(), shape.ld, targets.data(), scale,
                            shape.rows, shape.vocab);
      softmax_cross_entropy(loss_alone.data(), static_cast<T*>(nullptr), 0, logits.data(), shape.ld, targets.data(),
                            scale, shape.rows, shape.vocab);
      expect_same_bits(loss_alone, loss);
      for (int64_t r = 0; r < shape.rows; ++r) {
        const int32_t target = targets[static_cast<size_t>(r)];
        const auto row = row_of(logits, shape, r);
        const double total = log_sum_exp(row);
        const double expected = target == kIgnoredTarget ? 0.0 : reference_loss(row, target);
        ASSERT_NEAR(loss[static_cast<size_t>(r)], expected, 2e-6 * (1.0 + expected)) << "row " << r;
        for (int64_t v = 0; v < shape.vocab; ++v) {
          const double probability = std::exp(row[static_cast<size_t>(v)] - total);
          const double gradient = target == kIgnoredTarget ? 0.0 : (probability - (v == target ? 1.0 : 0.0)) * scale;
          // The exponent's argument is off by half a unit of up to 40, that is 2e-6, and the probability relative to
          // it.
          ASSERT_NEAR(as_double(d_logits[static_cast<size_t>(r * ld_d + v)]), gradient,
                      (kTolerance<T> + 2e-6) * std::abs(gradient) + 1e-7)
              << "row " << r << " token " << v;
        }
        for (int64_t v = shape.vocab; v < ld_d; ++v) {
          ASSERT_EQ(as_double(d_logits[static_cast<size_t>(r * ld_d + v)]), 7.0);
        }
      }
    }
  });
}

TYPED_TEST(SoftmaxCrossEntropy, GradientMatchesCentralDifferences) {
  using T = TypeParam;
  on_each_instruction_set([] {
    const Shape shape{1, 19, 19};
    const auto logits = random_normal<float>(shape.vocab, 2, 2.0);
    const int32_t target = 4;
    const float scale = 3.0f;
    float loss;
    std::vector<T> d_logits(logits.size());
    softmax_cross_entropy(&loss, d_logits.data(), shape.ld, logits.data(), shape.ld, &target, scale, 1, shape.vocab);
    const auto expected = central_differences(
        [&](const std::vector<double>& at) { return scale * reference_loss(at, target); }, to_double(logits));
    expect_near(d_logits, expected, kTolerance<T>, 0.1);
  });
}

TYPED_TEST(SoftmaxCrossEntropy, DoesNotDependOnThreadsOrOtherRows) {
  using T = TypeParam;
  const Shape shape{100, 517, 517};
  const auto logits = random_normal<float>(shape.rows * shape.ld, 3, 3.0);
  const auto targets = targets_of(shape);
  std::vector<float> loss(static_cast<size_t>(shape.rows));
  const auto gradient = [&] {
    std::vector<T> d_logits(logits.size());
    softmax_cross_entropy(loss.data(), d_logits.data(), shape.ld, logits.data(), shape.ld, targets.data(), 1.0f,
                          shape.rows, shape.vocab);
    return d_logits;
  };
  expect_independent_of_threads(gradient);
  const auto all = gradient();
  const int64_t row = 42;
  std::vector<T> alone(static_cast<size_t>(shape.vocab));
  float loss_alone;
  softmax_cross_entropy(&loss_alone, alone.data(), shape.ld, logits.data() + row * shape.ld, shape.ld,
                        targets.data() + row, 1.0f, 1, shape.vocab);
  EXPECT_EQ(loss_alone, loss[static_cast<size_t>(row)]);
  expect_same_bits(alone, std::vector<T>(all.begin() + row * shape.ld, all.begin() + (row + 1) * shape.ld));
}

TEST(SoftmaxCrossEntropyFloat, GradientMayReplaceTheLogits) {
  on_each_instruction_set([] {
    const Shape shape{7, 45, 50};
    const auto logits = random_normal<float>(shape.rows * shape.ld, 4);
    const auto targets = targets_of(shape);
    std::vector<float> loss(static_cast<size_t>(shape.rows)), d_logits = logits, in_place = logits;
    softmax_cross_entropy(loss.data(), d_logits.data(), shape.ld, logits.data(), shape.ld, targets.data(), 1.0f,
                          shape.rows, shape.vocab);
    softmax_cross_entropy(loss.data(), in_place.data(), shape.ld, in_place.data(), shape.ld, targets.data(), 1.0f,
                          shape.rows, shape.vocab);
    expect_same_bits(in_place, d_logits);
  });
}

TEST(SoftmaxCrossEntropyFloat, HugeLogitsDoNotOverflowAndBadOnesShow) {
  on_each_instruction_set([] {
    const int64_t vocab = 37;
    const int32_t target = 36;
    for (const float shift : {-3e37f, 3e37f}) {
      std::vector<float> logits(static_cast<size_t>(vocab), shift), d_logits(logits);
      float loss;
      softmax_cross_entropy(&loss, d_logits.data(), vocab, logits.data(), vocab, &target, 1.0f, 1, vocab);
      EXPECT_NEAR(loss, std::log(37.0), 1e-6);
      EXPECT_NEAR(d_logits[0], 1.0 / 37, 1e-8);
    }
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const size_t at : {size_t{0}, size_t{16}, size_t{36}}) {
        std::vector<float> logits(static_cast<size_t>(vocab));
        logits[at] = bad;
        float loss;
        softmax_cross_entropy(&loss, static_cast<float*>(nullptr), 0, logits.data(), vocab, &target, 1.0f, 1, vocab);
        EXPECT_FALSE(std::isfinite(loss)) << bad << " at " << at;
      }
    }
  });
}

TEST(TokenLogprobs, MatchesTheReferenceAndTakesTheLowestOfEquals) {
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      auto logits = random_normal<float>(shape.rows * shape.ld, 5, 5.0);
      const auto targets = targets_of(shape);
      std::vector<int32_t> best;
      for (int64_t r = 0; r < shape.rows; ++r) {
        const int64_t first = r * 31 % shape.vocab, second = std::min(first + 5, shape.vocab - 1);
        logits[static_cast<size_t>(r * shape.ld + first)] = 60.0f;
        logits[static_cast<size_t>(r * shape.ld + second)] = 60.0f;
        best.push_back(static_cast<int32_t>(first));
      }
      std::vector<float> logprob(static_cast<size_t>(shape.rows)), logprob_alone(logprob);
      std::vector<int32_t> argmax(static_cast<size_t>(shape.rows));
      token_logprobs(logprob.data(), argmax.data(), logits.data(), shape.ld, targets.data(), shape.rows, shape.vocab);
      token_logprobs(logprob_alone.data(), nullptr, logits.data(), shape.ld, targets.data(), shape.rows, shape.vocab);
      EXPECT_EQ(argmax, best);
      expect_same_bits(logprob_alone, logprob);
      for (int64_t r = 0; r < shape.rows; ++r) {
        const int32_t target = targets[static_cast<size_t>(r)];
        const double expected = target == kIgnoredTarget ? 0.0 : -reference_loss(row_of(logits, shape, r), target);
        ASSERT_NEAR(logprob[static_cast<size_t>(r)], expected, 2e-6 * (1.0 - expected)) << "row " << r;
      }
    }
  });
}

TEST(SumFixedOrder, AddsInDouble) {
  EXPECT_EQ(sum_fixed_order(nullptr, 0), 0.0);
  const std::vector<float> values = {1e8f, 1.0f, -1e8f, 0.5f};
  EXPECT_EQ(sum_fixed_order(values.data(), 4), 1.5);
}

TYPED_TEST(SoftmaxCrossEntropy, EmptyWorkTouchesNothing) {
  TypeParam* none = nullptr;
  softmax_cross_entropy(nullptr, none, 0, nullptr, 0, nullptr, 1.0f, 0, 16);
  token_logprobs(nullptr, nullptr, nullptr, 0, nullptr, 0, 16);
}

}  // namespace
}  // namespace deeptitan::cpu

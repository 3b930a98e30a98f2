#include "kernels/cpu/optimizer/adamw.h"

#include <limits>

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

/// The equations of AdamW in double, for one element.
struct ReferenceAdamW {
  double parameter, m, v;
  void update(double gradient, double learning_rate, double weight_decay, int64_t step, const AdamWOptions& options) {
    parameter *= 1.0 - learning_rate * weight_decay;
    m = options.beta1 * m + (1.0 - options.beta1) * gradient;
    v = options.beta2 * v + (1.0 - options.beta2) * gradient * gradient;
    const double m_hat = m / (1.0 - std::pow(options.beta1, static_cast<double>(step)));
    const double v_hat = v / (1.0 - std::pow(options.beta2, static_cast<double>(step)));
    parameter -= learning_rate * m_hat / (std::sqrt(v_hat) + options.epsilon);
  }
};

TEST(AdamW, MatchesTheReferenceOverSeveralSteps) {
  on_each_instruction_set([] {
    const AdamWOptions options{0.9, 0.95, 1e-8};
    for (const int64_t n : {1, 7, 33, 5000}) {
      auto parameter = random_normal<float>(n, 1);
      std::vector<float> m(parameter.size()), v(parameter.size());
      std::vector<ReferenceAdamW> reference;
      for (const float p : parameter) reference.push_back({p, 0.0, 0.0});
      for (int64_t step = 1; step <= 4; ++step) {
        const auto gradient = random_normal<float>(n, static_cast<uint32_t>(10 + step));
        adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), n, 1e-2, 0.1, 0.5f, step, options);
        for (size_t i = 0; i < reference.size(); ++i) reference[i].update(0.5 * gradient[i], 1e-2, 0.1, step, options);
      }
      std::vector<double> expected, expected_m, expected_v;
      for (const ReferenceAdamW& element : reference) {
        expected.push_back(element.parameter);
        expected_m.push_back(element.m);
        expected_v.push_back(element.v);
      }
      // Four steps of float arithmetic, each of a few roundings.
      expect_near(parameter, expected, 1e-6, 1.0);
      expect_near(m, expected_m, 1e-6, 0.1);
      expect_near(v, expected_v, 2e-6, 0.0);
    }
  });
}

// The state of torch.optim.AdamW 2.15.0 (CPU, lr 3e-3, betas 0.9 and 0.95, eps 1e-8, weight decay 0.1, foreach off)
// after these three gradients.
TEST(AdamW, MatchesTorch) {
  on_each_instruction_set([] {
    std::vector<float> parameter = {0.5f, -1.25f, 3.0f, 1e-3f, -0.7f, 0.0f, 2.5f, -4.0f};
    std::vector<float> m(8), v(8);
    const std::vector<std::vector<float>> gradients = {{0.1f, -0.2f, 0.3f, 1e-6f, -5.0f, 0.0f, 0.01f, -0.4f},
                                                       {0.05f, 0.4f, -0.1f, -2e-6f, 4.0f, 1.0f, 0.02f, 0.9f},
                                                       {-0.3f, 0.25f, 0.6f, 3e-6f, -1.5f, -2.0f, 0.03f, 0.0f}};
    int64_t step = 0;
    for (const auto& gradient : gradients) {
      adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), 8, 3e-3, 0.1, 1.0f, ++step,
                   {0.9, 0.95, 1e-8});
    }
    const std::vector<float> torch_parameter = {0x1.faa178p-2f,  -0x1.3fa6e2p+0f,  0x1.7ed8dcp+1f, -0x1.f14b68p-10f,
                                                -0x1.642868p-1f, -0x1.4f7fe4p-10f, 0x1.3e990ep+1f, -0x1.ff6ebep+1f};
    const std::vector<float> torch_m = {-0x1.1d14e4p-6f, 0x1.6f006ap-5f,  0x1.346dc6p-4f, 0x1.afa4ecp-23f,
                                        -0x1.8f5c28p-3f, -0x1.c28f5ap-4f, 0x1.6fa82ep-8f, 0x1.8e2196p-5f};
    const std::vector<float> torch_v = {0x1.4c447ep-8f, 0x1.9a9544p-7f, 0x1.713be4p-6f,  0x1.81b0ecp-41f,
                                        0x1.00147ap+1f, 0x1.fae148p-3f, 0x1.1f5cbcp-14f, 0x1.76555cp-5f};
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_FLOAT_EQ(parameter[i], torch_parameter[i]) << i;
      EXPECT_FLOAT_EQ(m[i], torch_m[i]) << i;
      EXPECT_FLOAT_EQ(v[i], torch_v[i]) << i;
    }
  });
}

TEST(AdamW, DoesNotDependOnThreads) {
  const int64_t n = 100001;
  const auto gradient = random_normal<float>(n, 2);
  const auto before = random_normal<float>(n, 3);
  expect_independent_of_threads([&] {
    auto parameter = before;
    std::vector<float> m(before.size()), v(before.size());
    for (int64_t step = 1; step <= 2; ++step) {
      adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), n, 1e-3, 0.1, 1.0f, step, {});
    }
    return parameter;
  });
}

TEST(SumOfSquares, MatchesTheReferenceWhateverTheThreads) {
  on_each_instruction_set([] {
    for (const int64_t n : {0, 1, 31, 4096, 1000003}) {
      const auto x = random_normal<float>(n, 4);
      double expected = 0.0;
      for (const float value : x) expected += static_cast<double>(value) * value;
      EXPECT_NEAR(sum_of_squares(x.data(), n), expected, 1e-6 * expected);
      expect_independent_of_threads([&] {
        const double sum = sum_of_squares(x.data(), n);
        return std::vector<float>{static_cast<float>(sum), static_cast<float>(sum - static_cast<float>(sum))};
      });
    }
  });
}

template <typename T>
class AllFinite : public ::testing::Test {};
TYPED_TEST_SUITE(AllFinite, ElementTypes);

TYPED_TEST(AllFinite, FindsTheOneBadElement) {
  using T = TypeParam;
  on_each_instruction_set([] {
    EXPECT_TRUE(all_finite(static_cast<const T*>(nullptr), 0));
    for (const int64_t n : {1, 31, 4097, 70001}) {
      // The largest finite values, whose sum is not finite.
      std::vector<T> x(static_cast<size_t>(n), rounded<T>(3.38e38));
      EXPECT_TRUE(all_finite(x.data(), n));
      for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
        for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
          auto with_bad = x;
          with_bad[static_cast<size_t>(at)] = rounded<T>(bad);
          EXPECT_FALSE(all_finite(with_bad.data(), n)) << bad << " at " << at << " of " << n;
        }
      }
    }
  });
}

TEST(AdamW, EmptyWorkTouchesNothing) {
  adamw_update(nullptr, nullptr, nullptr, nullptr, 0, 1e-3, 0.1, 1.0f, 1, {});
}

}  // namespace
}  // namespace deeptitan::cpu

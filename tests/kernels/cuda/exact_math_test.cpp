#include "kernels/exact_math.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/exact_math_kernels.h"

namespace deeptitan::cuda {
namespace {

constexpr uint32_t kStep = 509;  // of the 2^32 floats: odd, so that all mantissas and exponents are met
constexpr int64_t kCount = (int64_t{1} << 32) / kStep;

TEST(CudaExactMath, ReciprocalIsRoundedToNearest) {
  DT_SKIP_WITHOUT_GPU();
  DeviceBuffer<uint32_t> mismatches(std::vector<uint32_t>{0});
  for (const int exponent : {0, 1, 64, 123}) count_reciprocal_mismatches(mismatches.get(), exponent);
  EXPECT_EQ(mismatches.download()[0], 0u);
}

TEST(CudaExactMath, SigmoidAndExpHaveTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  DeviceBuffer<float> sigmoid(kCount), exp(kCount / 2);
  sigmoid_of_bits(sigmoid.get(), 0, kStep, kCount);
  exp_of_nonpositive_of_bits(exp.get(), 0x80000000u, kStep, kCount / 2);
  const std::vector<float> sigmoids = sigmoid.download(), exps = exp.download();
  int64_t mismatches = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const float expected = exact_sigmoid(float_from_bits(static_cast<uint32_t>(i) * kStep));
    mismatches += !(sigmoids[i] == expected || (std::isnan(sigmoids[i]) && std::isnan(expected)));
  }
  EXPECT_EQ(mismatches, 0);
  for (int64_t i = 0; i < kCount / 2; ++i) {
    const float expected = exact_exp_of_nonpositive(float_from_bits(0x80000000u + static_cast<uint32_t>(i) * kStep));
    mismatches += !(exps[i] == expected || (std::isnan(exps[i]) && std::isnan(expected)));
  }
  EXPECT_EQ(mismatches, 0);
}

}  // namespace
}  // namespace deeptitan::cuda

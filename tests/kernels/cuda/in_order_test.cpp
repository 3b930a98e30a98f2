#include "kernels/cuda/matmul/in_order.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/random.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

/// y of m rows between sentinels that are to stay, by the form under test and by the plain product.
template <typename T>
void check(int64_t m, int64_t n, int64_t k, int64_t ld_x, int64_t ld_y) {
  if (only_small_sizes() && m * n * k > 1'000'000) return;
  SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k << " of " << sizeof(T) << " bytes an element");
  const auto x = random_elements<T>(m * ld_x, 61);
  const auto weight = random_elements<float>(n * k, 62);
  const auto before = random_elements<float>(m * ld_y, 63);
  std::vector<float> wide;
  for (const T element : x) wide.push_back(to_float(element));
  DeviceBuffer<T> device_x(x);
  DeviceBuffer<float> device_wide(wide), device_weight(weight), found(before), expected(before);
  const InOrderProduct<T> product{found.get(), ld_y, device_x.get(), ld_x, device_weight.get(), m, n, k};
  ASSERT_TRUE(in_order_fits(product));
  multiply_in_order(product, nullptr);
  StridedProduct<float, float> plain{};
  plain.c = expected.get(), plain.c_row = ld_y;
  plain.a = device_wide.get(), plain.a_row = ld_x, plain.a_step = 1;
  plain.b = device_weight.get(), plain.b_step = 1, plain.b_column = k;
  plain.rows = m, plain.steps = k, plain.columns = n, plain.batches = 1;
  multiply_strided(plain, nullptr);
  EXPECT_TRUE(same_bytes(found.download(), expected.download()));
}

/// Of routers, and of random sizes.
template <typename T>
void check_sizes(int seed) {
  constexpr int64_t kUnit = 16 / sizeof(T);  // that loads take
  check<T>(512, 64, 2048, 2048, 64);         // V2-Lite's router in a prefill
  check<T>(1024, 256, 7168, 7168, 256);      // V3's
  check<T>(2500, 64, 2048, 2048, 64);        // the larger tiles
  const uint64_t key = random_key("in_order_test", seed);
  for (int shape = 0; shape < 24; ++shape) {
    const auto draw = [&](int what, int64_t most) {
      return 1 + static_cast<int64_t>(random_bits(key, shape * 8 + what) % most);
    };
    const int64_t m = draw(0, shape % 2 == 0 ? 70 : 9000), n = draw(1, kFewColumns), k = kUnit * draw(2, 360 / kUnit);
    check<T>(m, n, k, k + kUnit * draw(3, 3), n + draw(4, 5));
  }
  check<T>(3, 5, 0, kUnit, 5);
}

TEST(InOrderProduct, HasTheBitsOfThePlainProduct) {
  DT_SKIP_WITHOUT_GPU();
  check_sizes<float>(1);
}

TEST(InOrderProduct, OfNarrowRowsHasTheBitsOfThoseWidened) {
  DT_SKIP_WITHOUT_GPU();
  check_sizes<bfloat16>(2);
}

/// The gradient of m rows between elements that are to stay, by the form under test and by the plain product.
template <typename T>
void check_gradient(int64_t m, int64_t n, int64_t k, int64_t ld_d_x, int64_t ld_d_y, bool accumulate) {
  if (only_small_sizes() && m * n * k > 1'000'000) return;
  SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k << (accumulate ? " added" : ""));
  const auto d_y = random_elements<float>(m * ld_d_y, 64), weight = random_elements<float>(n * k, 65);
  const auto before = random_elements<T>(m * ld_d_x, 66);
  DeviceBuffer<float> device_d_y(d_y), device_weight(weight);
  DeviceBuffer<T> found(before), expected(before);
  const InOrderGradient<T> gradient{found.get(), ld_d_x, device_d_y.get(), ld_d_y, device_weight.get(), m,
                                    k,           n,      accumulate};
  ASSERT_TRUE(in_order_gradient_fits(gradient));
  multiply_gradient_in_order(gradient, nullptr);
  StridedProduct<float, T> plain{};
  plain.c = expected.get(), plain.c_row = ld_d_x;
  plain.a = device_d_y.get(), plain.a_row = ld_d_y, plain.a_step = 1;
  plain.b = device_weight.get(), plain.b_step = n, plain.b_column = 1;
  plain.rows = m, plain.steps = k, plain.columns = n, plain.batches = 1, plain.accumulate = accumulate;
  multiply_strided(plain, nullptr);
  EXPECT_TRUE(same_bytes(found.download(), expected.download()));
}

TEST(InOrderGradient, HasTheBitsOfThePlainProduct) {
  DT_SKIP_WITHOUT_GPU();
  check_gradient<bfloat16>(4096, 2048, 64, 2048, 64, true);  // V2-Lite's router
  check_gradient<float>(300, 7168, 256, 7168, 256, false);   // V3's
  const uint64_t key = random_key("in_order_test/gradient", 1);
  for (int shape = 0; shape < 24; ++shape) {
    const auto draw = [&](int what, int64_t most) {
      return 1 + static_cast<int64_t>(random_bits(key, shape * 8 + what) % most);
    };
    const int64_t m = draw(0, 300), n = 4 * draw(1, 150), k = 4 * draw(2, kFewSteps / 4);
    const int64_t ld_d_x = n + 4 * draw(3, 3), ld_d_y = k + 4 * draw(4, 3);
    check_gradient<float>(m, n, k, ld_d_x, ld_d_y, shape % 2 == 0);
    check_gradient<bfloat16>(m, n, k, ld_d_x, ld_d_y, shape % 3 == 0);
  }
}

TEST(InOrderGradient, LeavesOthersToOthers) {
  alignas(16) float storage[8];
  const InOrderGradient<float> gradient{storage, 4, storage, 4, storage, 1, 4, 4};
  EXPECT_TRUE(in_order_gradient_fits(gradient));
  const auto changed = [&](auto InOrderGradient<float>::*member, auto value) {
    InOrderGradient<float> other = gradient;
    other.*member = value;
    return in_order_gradient_fits(other);
  };
  EXPECT_FALSE(changed(&InOrderGradient<float>::steps, kFewSteps + 4));
  EXPECT_FALSE(changed(&InOrderGradient<float>::steps, int64_t{6}));
  EXPECT_FALSE(changed(&InOrderGradient<float>::columns, int64_t{6}));
  EXPECT_FALSE(changed(&InOrderGradient<float>::ld_d_x, int64_t{6}));
  EXPECT_FALSE(changed(&InOrderGradient<float>::d_y, static_cast<const float*>(storage + 1)));
}

TEST(InOrderProduct, LeavesOthersToOthers) {
  alignas(16) float storage[8];
  const InOrderProduct<float> product{storage, 4, storage, 4, storage, 1, 4, 4};
  EXPECT_TRUE(in_order_fits(product));
  const auto changed = [&](auto InOrderProduct<float>::*member, auto value) {
    InOrderProduct<float> other = product;
    other.*member = value;
    return in_order_fits(other);
  };
  EXPECT_FALSE(changed(&InOrderProduct<float>::outputs, kFewColumns + 1));
  EXPECT_FALSE(changed(&InOrderProduct<float>::inputs, int64_t{6}));
  EXPECT_FALSE(changed(&InOrderProduct<float>::ld_x, int64_t{6}));
  EXPECT_FALSE(changed(&InOrderProduct<float>::x, static_cast<const float*>(storage + 1)));
}

}  // namespace
}  // namespace deeptitan::cuda

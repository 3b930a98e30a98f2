#include "kernels/cpu/activation/swiglu.h"

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

struct Shape {
  int64_t rows, width;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 7}, {5, 33}, {65, 128}, {3, 1029}};

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
double reference(double gate, double up) {
  return gate * sigmoid(gate) * up;
}

/// The first half (gate) or the second half (up) of rows [rows, 2 * width].
template <typename T>
std::vector<T> half(const std::vector<T>& both, Shape shape, bool second) {
  std::vector<T> result;
  for (int64_t r = 0; r < shape.rows; ++r) {
    const auto begin = both.begin() + (2 * r + (second ? 1 : 0)) * shape.width;
    result.insert(result.end(), begin, begin + shape.width);
  }
  return result;
}

/// Float arithmetic with an exponential good to 2 units in the last place.
template <typename T>
constexpr double kSwigluTolerance = std::is_same_v<T, float> ? 1e-6 : 0x1p-8 + 1e-5;

template <typename T>
class Swiglu : public ::testing::Test {};
TYPED_TEST_SUITE(Swiglu, ElementTypes);

TYPED_TEST(Swiglu, MatchesTheReference) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const auto gate_up = random_normal<T>(2 * shape.rows * shape.width, 1, 4.0);
      std::vector<T> out(static_cast<size_t>(shape.rows * shape.width));
      swiglu(out.data(), gate_up.data(), gate_up.data() + shape.width, 2 * shape.width, shape.rows, shape.width);
      const auto gate = to_double(half(gate_up, shape, false)), up = to_double(half(gate_up, shape, true));
      std::vector<double> expected;
      for (size_t i = 0; i < gate.size(); ++i) expected.push_back(reference(gate[i], up[i]));
      expect_near(out, expected, kSwigluTolerance<T>, 1e-6);
    }
  });
}

TYPED_TEST(Swiglu, GroupsHaveTheBitsOfTheirRowsAndLeavePadding) {
  using T = TypeParam;
  constexpr int64_t kRows = 200, kWidth = 130;
  const std::vector<int32_t> first = {0, 8, 8, 152, 192};
  const std::vector<int32_t> count = {5, 0, 144, 33, 1};
  const GroupRows groups{first.data(), count.data(), 5};
  const auto gate_up = random_normal<T>(2 * kRows * kWidth, 1, 4.0);
  const auto d_out = random_normal<T>(kRows * kWidth, 2, 1.0);
  const T untouched = rounded<T>(7.0);
  std::vector<T> whole(kRows * kWidth), d_whole(2 * kRows * kWidth);
  swiglu(whole.data(), gate_up.data(), gate_up.data() + kWidth, 2 * kWidth, kRows, kWidth);
  swiglu_backward(d_whole.data(), d_whole.data() + kWidth, 2 * kWidth, d_out.data(), gate_up.data(),
                  gate_up.data() + kWidth, 2 * kWidth, kRows, kWidth);
  std::vector<T> out(whole.size(), untouched), d_gate_up(d_whole.size(), untouched);
  grouped_swiglu(out.data(), gate_up.data(), gate_up.data() + kWidth, 2 * kWidth, groups, kWidth);
  grouped_swiglu_backward(d_gate_up.data(), d_gate_up.data() + kWidth, 2 * kWidth, d_out.data(), gate_up.data(),
                          gate_up.data() + kWidth, 2 * kWidth, groups, kWidth);
  for (int64_t r = 0; r < kRows; ++r) {
    bool in_group = false;
    for (size_t g = 0; g < first.size(); ++g) in_group |= first[g] <= r && r < first[g] + count[g];
    for (int64_t i = 0; i < kWidth; ++i) {
      ASSERT_EQ(as_double(out[r * kWidth + i]), as_double(in_group ? whole[r * kWidth + i] : untouched)) << r;
    }
    for (int64_t i = 2 * r * kWidth; i < 2 * (r + 1) * kWidth; ++i) {
      ASSERT_EQ(as_double(d_gate_up[i]), as_double(in_group ? d_whole[i] : untouched)) << r;
    }
  }
}

TYPED_TEST(Swiglu, SaturatesAtLargeGates) {
  using T = TypeParam;
  on_each_instruction_set([] {
    const std::vector<double> gates = {-1e30, -1000, -200, -89, -87, 0, 87, 89, 200, 1000, 1e30};
    for (const double value : gates) {
      const T gate = rounded<T>(value), up = rounded<T>(1.0), d_out = rounded<T>(1.0);
      T out, d_gate, d_up;
      swiglu(&out, &gate, &up, 1, 1, 1);
      EXPECT_NEAR(as_double(out), value > 0 ? as_double(gate) : 0.0, 1e-30) << value;
      swiglu_backward(&d_gate, &d_up, 1, &d_out, &gate, &up, 1, 1, 1);
      EXPECT_NEAR(as_double(d_gate), value > 0 ? 1.0 : (value < 0 ? 0.0 : 0.5), 1e-30) << value;
      EXPECT_NEAR(as_double(d_up), as_double(out), 1e-30) << value;
    }
  });
}

TYPED_TEST(Swiglu, NanGoesThrough) {
  using T = TypeParam;
  on_each_instruction_set([] {
    const T nan = rounded<T>(std::nan("")), one = rounded<T>(1.0);
    T out;
    swiglu(&out, &nan, &one, 1, 1, 1);
    EXPECT_TRUE(std::isnan(as_double(out)));
  });
}

TYPED_TEST(Swiglu, BackwardMatchesCentralDifferences) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const auto gate_up = random_normal<T>(2 * shape.rows * shape.width, 2, 2.0);
      const auto d_out = random_normal<T>(shape.rows * shape.width, 3);
      std::vector<T> d_gate_up(gate_up.size());
      swiglu_backward(d_gate_up.data(), d_gate_up.data() + shape.width, 2 * shape.width, d_out.data(), gate_up.data(),
                      gate_up.data() + shape.width, 2 * shape.width, shape.rows, shape.width);
      const auto gate = to_double(half(gate_up, shape, false)), up = to_double(half(gate_up, shape, true));
      std::vector<double> expected_gate, expected_up;
      const double step = 1e-5;
      for (size_t i = 0; i < gate.size(); ++i) {
        const double d = as_double(d_out[i]);
        expected_gate.push_back(d * (reference(gate[i] + step, up[i]) - reference(gate[i] - step, up[i])) / (2 * step));
        expected_up.push_back(d * (reference(gate[i], up[i] + step) - reference(gate[i], up[i] - step)) / (2 * step));
      }
      expect_near(half(d_gate_up, shape, false), expected_gate, kSwigluTolerance<T>, 1.0);
      expect_near(half(d_gate_up, shape, true), expected_up, kSwigluTolerance<T>, 1.0);

      std::vector<T> in_place = gate_up;
      swiglu_backward(in_place.data(), in_place.data() + shape.width, 2 * shape.width, d_out.data(), in_place.data(),
                      in_place.data() + shape.width, 2 * shape.width, shape.rows, shape.width);
      expect_same_bits(in_place, d_gate_up);
    }
  });
}

TYPED_TEST(Swiglu, DoesNotDependOnThreads) {
  using T = TypeParam;
  const Shape shape{333, 131};
  const auto gate_up = random_normal<T>(2 * shape.rows * shape.width, 4);
  const auto d_out = random_normal<T>(shape.rows * shape.width, 5);
  expect_independent_of_threads([&] {
    std::vector<T> out(d_out.size());
    swiglu(out.data(), gate_up.data(), gate_up.data() + shape.width, 2 * shape.width, shape.rows, shape.width);
    return out;
  });
  expect_independent_of_threads([&] {
    std::vector<T> d_gate_up(gate_up.size());
    swiglu_backward(d_gate_up.data(), d_gate_up.data() + shape.width, 2 * shape.width, d_out.data(), gate_up.data(),
                    gate_up.data() + shape.width, 2 * shape.width, shape.rows, shape.width);
    return d_gate_up;
  });
}

TYPED_TEST(Swiglu, EmptyWorkTouchesNothing) {
  TypeParam* none = nullptr;
  swiglu(none, none, none, 0, 0, 16);
  swiglu(none, none, none, 0, 4, 0);
  swiglu_backward(none, none, 0, none, none, none, 0, 0, 16);
}

}  // namespace
}  // namespace deeptitan::cpu

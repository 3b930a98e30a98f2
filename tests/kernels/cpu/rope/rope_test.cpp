#include "kernels/cpu/rope/rope.h"

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

struct Shape {
  int64_t rows, heads, head_stride, offset, dim;
};
constexpr RopePairs kBothPairs[] = {RopePairs::kNeighbours, RopePairs::kHalves};
// One pair; fewer pairs than a vector; the rotated tail of wider heads; ragged; enough work for several threads.
constexpr Shape kShapes[] = {
    {1, 1, 2, 0, 2}, {3, 2, 6, 0, 6}, {5, 4, 96, 64, 32}, {4, 3, 80, 10, 70}, {200, 16, 96, 64, 32}};
constexpr int64_t kPositions = 50;

struct Tables {
  std::vector<float> cos, sin;
};
Tables tables(int64_t dim) {
  Tables result;
  for (int64_t p = 0; p < kPositions; ++p) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double angle =
          static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      result.cos.push_back(static_cast<float>(std::cos(angle)));
      result.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return result;
}

std::vector<int32_t> positions_of(int64_t rows) {
  std::vector<int32_t> positions;
  for (int64_t r = 0; r < rows; ++r) positions.push_back(static_cast<int32_t>((r * 17 + 3) % kPositions));
  return positions;
}

std::vector<double> reference(std::vector<double> x, Shape shape, const Tables& table,
                              const std::vector<int32_t>& positions, bool inverse, RopePairs pairs) {
  const bool halves = pairs == RopePairs::kHalves;
  for (int64_t r = 0; r < shape.rows; ++r) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t i = 0; i < shape.dim / 2; ++i) {
        const auto at =
            static_cast<size_t>((r * shape.heads + h) * shape.head_stride + shape.offset + (halves ? i : 2 * i));
        const auto partner = at + static_cast<size_t>(halves ? shape.dim / 2 : 1);
        const auto entry = static_cast<size_t>(positions[static_cast<size_t>(r)] * (shape.dim / 2) + i);
        const double a = x[at], b = x[partner], c = table.cos[entry],
                     s = inverse ? -table.sin[entry] : table.sin[entry];
        x[at] = a * c - b * s;
        x[partner] = a * s + b * c;
      }
    }
  }
  return x;
}

template <typename T>
void rotate(std::vector<T>& x, Shape shape, const Tables& table, const std::vector<int32_t>& positions, bool inverse,
            RopePairs pairs) {
  rope_rotate(x.data() + shape.offset, shape.heads * shape.head_stride, shape.heads, shape.head_stride, shape.dim,
              table.cos.data(), table.sin.data(), positions.data(), shape.rows, inverse, pairs);
}

template <typename T>
class RopeRotate : public ::testing::Test {};
TYPED_TEST_SUITE(RopeRotate, ElementTypes);

TYPED_TEST(RopeRotate, MatchesTheReferenceAndLeavesTheRestOfEachHeadAlone) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const Tables table = tables(shape.dim);
      const auto positions = positions_of(shape.rows);
      const auto x = random_normal<T>(shape.rows * shape.heads * shape.head_stride, 1);
      for (const bool inverse : {false, true}) {
        for (const RopePairs pairs : kBothPairs) {
          std::vector<T> rotated = x;
          rotate(rotated, shape, table, positions, inverse, pairs);
          expect_near(rotated, reference(to_double(x), shape, table, positions, inverse, pairs), kTolerance<T>, 0.1);
        }
      }
    }
  });
}

// A rotation is linear, so that its gradient is its transpose: <d_out, R x> = <R^T d_out, x>.
TYPED_TEST(RopeRotate, InverseIsTheTransposeAndUndoesTheRotation) {
  using T = TypeParam;
  const Shape shape{5, 4, 96, 64, 32};
  const Tables table = tables(shape.dim);
  const auto positions = positions_of(shape.rows);
  const auto x = random_normal<T>(shape.rows * shape.heads * shape.head_stride, 2);
  const auto d_out = random_normal<T>(static_cast<int64_t>(x.size()), 3);
  for (const RopePairs pairs : kBothPairs) {
    std::vector<T> rotated = x, d_x = d_out;
    rotate(rotated, shape, table, positions, false, pairs);
    rotate(d_x, shape, table, positions, true, pairs);
    double forward = 0.0, backward = 0.0;
    for (size_t i = 0; i < x.size(); ++i) {
      forward += as_double(d_out[i]) * as_double(rotated[i]);
      backward += as_double(d_x[i]) * as_double(x[i]);
    }
    EXPECT_NEAR(forward, backward, kTolerance<T> * static_cast<double>(x.size()));
    rotate(rotated, shape, table, positions, true, pairs);
    expect_near(rotated, to_double(x), 2 * kTolerance<T>, 2.0);
  }
}

TYPED_TEST(RopeRotate, DoesNotDependOnThreadsOrOtherRows) {
  using T = TypeParam;
  const Shape shape{200, 16, 96, 64, 32};
  const Tables table = tables(shape.dim);
  const auto positions = positions_of(shape.rows);
  const auto x = random_normal<T>(shape.rows * shape.heads * shape.head_stride, 4);
  for (const RopePairs pairs : kBothPairs) {
    expect_independent_of_threads([&] {
      std::vector<T> rotated = x;
      rotate(rotated, shape, table, positions, false, pairs);
      return rotated;
    });
    std::vector<T> all = x;
    rotate(all, shape, table, positions, false, pairs);
    const int64_t row = 77, row_size = shape.heads * shape.head_stride;
    std::vector<T> alone(x.begin() + row * row_size, x.begin() + (row + 1) * row_size);
    rotate(alone, {1, 16, 96, 64, 32}, table, {positions[static_cast<size_t>(row)]}, false, pairs);
    expect_same_bits(alone, std::vector<T>(all.begin() + row * row_size, all.begin() + (row + 1) * row_size));
  }
}

TYPED_TEST(RopeRotate, EmptyWorkTouchesNothing) {
  TypeParam* none = nullptr;
  rope_rotate(none, 0, 4, 32, 32, nullptr, nullptr, nullptr, 0, false);
  const int32_t position = 0;
  rope_rotate(none, 0, 0, 32, 32, nullptr, nullptr, &position, 1, false);
  rope_rotate(none, 0, 4, 32, 0, nullptr, nullptr, &position, 1, false);
}

}  // namespace
}  // namespace deeptitan::cpu

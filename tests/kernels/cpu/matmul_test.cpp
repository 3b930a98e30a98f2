#include "kernels/cpu/matmul/matmul.h"

#include <omp.h>

#include <cstring>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/matmul/pack_weights.h"
#include "support/compare.h"

namespace deeptitan::cpu {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::rounding_tolerance;

template <typename T>
class Matmul : public ::testing::Test {};
using Types = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(Matmul, Types);

struct Shape {
  int64_t rows, contracted, columns;
};
// Ragged in every dimension, one of each, and multiples of the tile.
const Shape kShapes[] = {{1, 2, 1}, {1, 64, 96}, {3, 6, 33}, {8, 32, 32}, {65, 130, 70}, {130, 256, 31}, {7, 18, 257}};

template <typename T>
constexpr OperandType type_of() {
  return std::is_same_v<T, bfloat16> ? OperandType::kBfloat16 : OperandType::kFloat;
}

// c[m, n] = sum_k a[m, k] * w[n, k]
template <typename T>
std::vector<double> reference(const std::vector<T>& a, const std::vector<T>& w, Shape s) {
  std::vector<double> c(s.rows * s.columns, 0.0);
  for (int64_t m = 0; m < s.rows; ++m) {
    for (int64_t n = 0; n < s.columns; ++n) {
      for (int64_t k = 0; k < s.contracted; ++k) {
        c[m * s.columns + n] +=
            static_cast<double>(to_float(a[m * s.contracted + k])) * to_float(w[n * s.contracted + k]);
      }
    }
  }
  return c;
}

template <typename T>
std::vector<uint32_t> pack(const std::vector<T>& w, Shape s) {
  std::vector<uint32_t> packed(packed_words(type_of<T>(), s.contracted, s.columns));
  pack_transposed(packed.data(), w.data(), s.contracted, s.contracted, s.columns, type_of<T>());
  return packed;
}

TYPED_TEST(Matmul, EqualsTheReference) {
  for (const Shape& s : kShapes) {
    const auto a = random_normal<TypeParam>(s.rows * s.contracted, 1);
    const auto w = random_normal<TypeParam>(s.columns * s.contracted, 2);
    const auto packed = pack(w, s);
    std::vector<TypeParam> c(s.rows * s.columns);
    matmul(MatmulOutput<TypeParam>{c.data(), s.columns, false}, a.data(), s.contracted, packed.data(), s.rows,
           s.contracted, s.columns);
    EXPECT_LT(relative_error(c, reference(a, w, s)), rounding_tolerance<TypeParam>())
        << s.rows << " x " << s.contracted << " x " << s.columns;
  }
}

TYPED_TEST(Matmul, AccumulatesIntoASliceOfColumns) {
  const Shape s{9, 34, 40};
  const int64_t ld = 100;
  const auto a = random_normal<TypeParam>(s.rows * s.contracted, 1);
  const auto w = random_normal<TypeParam>(s.columns * s.contracted, 2);
  const auto packed = pack(w, s);
  auto c = random_normal<TypeParam>(s.rows * ld, 3);
  auto expected = testing::to_double(c);
  const auto product = reference(a, w, s);
  for (int64_t m = 0; m < s.rows; ++m) {
    for (int64_t n = 0; n < s.columns; ++n) expected[m * ld + 20 + n] += product[m * s.columns + n];
  }
  matmul(MatmulOutput<TypeParam>{c.data() + 20, ld, true}, a.data(), s.contracted, packed.data(), s.rows, s.contracted,
         s.columns);
  EXPECT_LT(relative_error(c, expected), rounding_tolerance<TypeParam>());
}

TYPED_TEST(Matmul, ARowDoesNotDependOnTheRowsBesideItNorOnThreads) {
  const Shape s{67, 96, 80};
  const auto a = random_normal<TypeParam>(s.rows * s.contracted, 1);
  const auto packed = pack(random_normal<TypeParam>(s.columns * s.contracted, 2), s);
  std::vector<TypeParam> together(s.rows * s.columns);
  std::vector<TypeParam> alone(s.rows * s.columns);
  matmul(MatmulOutput<TypeParam>{together.data(), s.columns, false}, a.data(), s.contracted, packed.data(), s.rows,
         s.contracted, s.columns);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(3);
  for (int64_t m = 0; m < s.rows; ++m) {
    matmul(MatmulOutput<TypeParam>{alone.data() + m * s.columns, s.columns, false}, a.data() + m * s.contracted,
           s.contracted, packed.data(), 1, s.contracted, s.columns);
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(0, std::memcmp(together.data(), alone.data(), together.size() * sizeof(TypeParam)));
}

TYPED_TEST(Matmul, GroupsWithEmptyOnes) {
  const Shape s{0, 32, 48};
  const std::vector<int32_t> sizes = {5, 0, 70, 1, 0};
  std::vector<int32_t> offset = {0};
  for (int32_t size : sizes) offset.push_back(offset.back() + size);
  const int64_t rows = offset.back();
  const int64_t groups = static_cast<int64_t>(sizes.size());
  const auto a = random_normal<TypeParam>(rows * s.contracted, 1);
  std::vector<uint32_t> packed;
  std::vector<double> expected;
  for (int64_t g = 0; g < groups; ++g) {
    const auto w = random_normal<TypeParam>(s.columns * s.contracted, static_cast<uint32_t>(10 + g));
    const auto one = pack(w, s);
    packed.insert(packed.end(), one.begin(), one.end());
    const std::vector<TypeParam> part(a.begin() + offset[g] * s.contracted, a.begin() + offset[g + 1] * s.contracted);
    const auto c = reference(part, w, Shape{sizes[g], s.contracted, s.columns});
    expected.insert(expected.end(), c.begin(), c.end());
  }
  std::vector<TypeParam> c(rows * s.columns);
  grouped_matmul(MatmulOutput<TypeParam>{c.data(), s.columns, false}, a.data(), s.contracted, packed.data(),
                 GroupRows{offset.data(), sizes.data(), groups}, s.contracted, s.columns);
  EXPECT_LT(relative_error(c, expected), rounding_tolerance<TypeParam>());
}

// Rows of 1100 are multiplied 64 at a time: groups of a part of such a chunk, of several chunks, and of none.
TYPED_TEST(Matmul, GroupsLongerThanAChunkOfRows) {
  const Shape s{0, 1100, 70};
  const std::vector<int32_t> sizes = {3, 150, 0, 57, 24};
  std::vector<int32_t> offset = {0};
  for (int32_t size : sizes) offset.push_back(offset.back() + size);
  const auto a = random_normal<TypeParam>(offset.back() * s.contracted, 1);
  std::vector<uint32_t> packed;
  std::vector<double> expected;
  for (size_t g = 0; g < sizes.size(); ++g) {
    const auto w = random_normal<TypeParam>(s.columns * s.contracted, static_cast<uint32_t>(10 + g));
    const auto one = pack(w, s);
    packed.insert(packed.end(), one.begin(), one.end());
    const std::vector<TypeParam> part(a.begin() + offset[g] * s.contracted, a.begin() + offset[g + 1] * s.contracted);
    const auto c = reference(part, w, Shape{sizes[g], s.contracted, s.columns});
    expected.insert(expected.end(), c.begin(), c.end());
  }
  auto c = random_normal<float>(offset.back() * s.columns, 5);
  for (size_t i = 0; i < c.size(); ++i) expected[i] += static_cast<double>(c[i]);
  grouped_matmul(MatmulOutput<float>{c.data(), s.columns, true}, a.data(), s.contracted, packed.data(),
                 GroupRows{offset.data(), sizes.data(), static_cast<int64_t>(sizes.size())}, s.contracted, s.columns);
  EXPECT_LT(relative_error(c, expected), rounding_tolerance<float>());
}

TYPED_TEST(Matmul, PackDirectIsPackTransposedOfTheTranspose) {
  const int64_t contracted = 37;
  const int64_t columns = 45;
  const auto source = random_normal<TypeParam>(contracted * columns, 4);
  std::vector<TypeParam> transposed(source.size());
  for (int64_t k = 0; k < contracted; ++k) {
    for (int64_t n = 0; n < columns; ++n) transposed[n * contracted + k] = source[k * columns + n];
  }
  for (const OperandType type : {OperandType::kFloat, OperandType::kBfloat16}) {
    std::vector<uint32_t> direct(packed_words(type, contracted, columns), 1);
    std::vector<uint32_t> through_transpose(direct.size(), 2);
    pack_direct(direct.data(), source.data(), columns, contracted, columns, type);
    pack_transposed(through_transpose.data(), transposed.data(), contracted, contracted, columns, type);
    EXPECT_EQ(direct, through_transpose);
  }
}

TYPED_TEST(Matmul, OneLayoutServesBothProductsWithTheSameBits) {
  // The last is larger than what is repacked at once.
  const std::pair<int64_t, int64_t> shapes[] = {{1, 2}, {2, 1}, {32, 32}, {37, 45}, {46, 18}, {8, 100}, {2100, 2110}};
  for (const auto& [outputs, inputs] : shapes) {
    const auto w = random_normal<TypeParam>(outputs * inputs, 4);
    for (const OperandType type : {OperandType::kFloat, OperandType::kBfloat16}) {
      std::vector<uint32_t> forward(packed_words(type, inputs, outputs));
      std::vector<uint32_t> direct(packed_words(type, outputs, inputs), 1);
      std::vector<uint32_t> repacked(direct.size(), 2);
      pack_transposed(forward.data(), w.data(), inputs, inputs, outputs, type);
      pack_direct(direct.data(), w.data(), inputs, outputs, inputs, type);
      repack_transposed(repacked.data(), forward.data(), outputs, inputs, 0, packed_panels(inputs), type);
      EXPECT_EQ(direct, repacked) << outputs << " x " << inputs;
    }
    if (outputs % 2 != 0) continue;  // a bf16 product pairs neighbours
    // Two rows, none, three, with a row of padding behind the first and the last.
    const std::vector<int32_t> first = {0, 3, 3};
    const std::vector<int32_t> count = {2, 0, 3};
    const GroupRows groups{first.data(), count.data(), 3};
    std::vector<uint32_t> forward;
    std::vector<uint32_t> direct;
    for (uint32_t g = 0; g < 3; ++g) {
      const auto of_group = random_normal<TypeParam>(outputs * inputs, 5 + g);
      std::vector<uint32_t> packed(packed_words(type_of<TypeParam>(), inputs, outputs));
      pack_transposed(packed.data(), of_group.data(), inputs, inputs, outputs, type_of<TypeParam>());
      forward.insert(forward.end(), packed.begin(), packed.end());
      packed.resize(packed_words(type_of<TypeParam>(), outputs, inputs));
      pack_direct(packed.data(), of_group.data(), inputs, outputs, inputs, type_of<TypeParam>());
      direct.insert(direct.end(), packed.begin(), packed.end());
    }
    const auto d_out = random_normal<TypeParam>(7 * outputs, 9);
    const auto before = random_normal<TypeParam>(7 * inputs, 10);
    auto expected = before;
    auto found = before;
    std::vector<uint32_t> workspace(transposed_workspace_words(type_of<TypeParam>(), outputs, inputs));
    grouped_matmul(MatmulOutput<TypeParam>{expected.data(), inputs, true}, d_out.data(), outputs, direct.data(), groups,
                   outputs, inputs);
    grouped_matmul_transposed(MatmulOutput<TypeParam>{found.data(), inputs, true}, d_out.data(), outputs,
                              forward.data(), groups, outputs, inputs, workspace.data());
    EXPECT_EQ(0, std::memcmp(expected.data(), found.data(), found.size() * sizeof(TypeParam)))
        << outputs << " x " << inputs;
    for (const int64_t padding : {2, 6}) {
      EXPECT_EQ(0, std::memcmp(found.data() + padding * inputs, before.data() + padding * inputs,
                               static_cast<size_t>(inputs) * sizeof(TypeParam)))
          << "row " << padding;
    }
  }
}

TYPED_TEST(Matmul, AWeightOfSeveralPiecesIsPackedAsOne) {
  const int64_t inputs = 26;
  const int64_t rows[] = {100, 33, 150};  // pieces meet inside a block of rows
  const int64_t outputs = 283;
  const auto w = random_normal<TypeParam>(2 * outputs * inputs, 4);
  std::vector<WeightRows> whole;
  std::vector<WeightRows> pieces;
  for (int64_t g = 0; g < 2; ++g) {
    const TypeParam* next = w.data() + g * outputs * inputs;
    whole.push_back({next, inputs, outputs});
    for (const int64_t count : rows) {
      pieces.push_back({next, inputs, count});
      next += count * inputs;
    }
  }
  for (const OperandType type : {OperandType::kFloat, OperandType::kBfloat16}) {
    const auto packed = [&](const std::vector<WeightRows>& from, uint32_t fill) {
      std::vector<uint32_t> forward(2 * packed_words(type, inputs, outputs), fill);
      std::vector<uint32_t> backward(2 * packed_words(type, outputs, inputs), fill);
      pack_weights<TypeParam>({type, outputs, inputs, forward.data(), backward.data()}, from.data(),
                              static_cast<int64_t>(from.size()) / 2, 2);
      forward.insert(forward.end(), backward.begin(), backward.end());
      return forward;
    };
    EXPECT_EQ(packed(whole, 1), packed(pieces, 2));
  }
}

TYPED_TEST(Matmul, WeightGradientOfGroupsAddsToWhatIsThere) {
  const int64_t out_columns = 37;
  const int64_t in_columns = 70;
  const std::vector<int32_t> first = {0, 4, 8, 76};  // with padding between, as an alignment of 4 leaves it
  const std::vector<int32_t> count = {3, 0, 65, 1};
  const int64_t groups = static_cast<int64_t>(first.size());
  const int64_t rows = 80;
  const auto d_out = random_normal<TypeParam>(rows * out_columns, 1);
  const auto x = random_normal<TypeParam>(rows * in_columns, 2);
  auto d_weight = random_normal<float>(groups * out_columns * in_columns, 3);
  auto expected = testing::to_double(d_weight);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t r = first[g]; r < first[g] + count[g]; ++r) {
      for (int64_t n = 0; n < out_columns; ++n) {
        for (int64_t k = 0; k < in_columns; ++k) {
          expected[(g * out_columns + n) * in_columns + k] +=
              static_cast<double>(to_float(d_out[r * out_columns + n])) * to_float(x[r * in_columns + k]);
        }
      }
    }
  }
  std::vector<uint32_t> workspace(weight_gradient_workspace_words(rows, groups, out_columns, in_columns));
  grouped_weight_gradient(d_weight.data(), d_out.data(), out_columns, x.data(), in_columns,
                          GroupRows{first.data(), count.data(), groups}, out_columns, in_columns, workspace.data());
  // bf16 products are exact in fp32, so both types round like fp32.
  EXPECT_LT(relative_error(d_weight, expected), rounding_tolerance<float>());
}

TEST(MatmulErrors, OddContractedLengthInBfloat16) {
  std::vector<bfloat16> a(3);
  std::vector<uint32_t> packed(packed_words(OperandType::kBfloat16, 3, 1));
  bfloat16 c{};
  try {
    matmul(MatmulOutput<bfloat16>{&c, 1, false}, a.data(), 3, packed.data(), 1, 3, 1);
    FAIL() << "no error";
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), "a bf16 product needs an even contracted length and leading stride, found 3 and 3");
  }
}

}  // namespace
}  // namespace deeptitan::cpu

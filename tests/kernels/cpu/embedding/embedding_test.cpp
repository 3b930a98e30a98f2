#include "kernels/cpu/embedding/embedding.h"

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

constexpr int64_t kVocab = 37;

struct Shape {
  int64_t tokens, dim;
};
constexpr Shape kShapes[] = {{1, 1}, {5, 7}, {40, 33}, {300, 256}, {3, 1029}};

/// Ids with repetitions, the first and the last of the vocabulary among them.
std::vector<int32_t> ids_of(int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    ids.push_back(static_cast<int32_t>(t % 3 == 0 ? kVocab - 1 : t * t % kVocab));
  }
  return ids;
}

template <typename Out, typename In>
void expect_gathers() {
  for (const Shape shape : kShapes) {
    const auto table = random_normal<In>(kVocab * shape.dim, 1);
    const auto ids = ids_of(shape.tokens);
    std::vector<Out> out(static_cast<size_t>(shape.tokens * shape.dim)), expected;
    embedding_gather(out.data(), table.data(), ids.data(), shape.tokens, shape.dim);
    for (const int32_t id : ids) {
      for (int64_t i = 0; i < shape.dim; ++i) {
        expected.push_back(rounded<Out>(as_double(table[static_cast<size_t>(id * shape.dim + i)])));
      }
    }
    expect_same_bits(out, expected);
  }
}

TEST(EmbeddingGather, CopiesOrRoundsRows) {
  on_each_instruction_set([] {
    expect_gathers<float, float>();
    expect_gathers<bfloat16, bfloat16>();
    expect_gathers<bfloat16, float>();
  });
}

template <typename T>
class EmbeddingScatterAdd : public ::testing::Test {};
TYPED_TEST_SUITE(EmbeddingScatterAdd, ElementTypes);

// The same additions in the same order: equal bits, with any number of threads (more than there are blocks of columns
// in the narrow shapes).
TYPED_TEST(EmbeddingScatterAdd, AddsInTheOrderOfTheTokens) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : {Shape{1, 1}, {5, 7}, {4000, 70}, {300, 256}, {3, 1029}}) {
      const auto ids = ids_of(shape.tokens);
      const auto d_out = random_normal<T>(shape.tokens * shape.dim, 2);
      const auto before = random_normal<float>(kVocab * shape.dim, 3);
      std::vector<float> expected = before;
      for (int64_t t = 0; t < shape.tokens; ++t) {
        for (int64_t i = 0; i < shape.dim; ++i) {
          expected[static_cast<size_t>(ids[static_cast<size_t>(t)] * shape.dim + i)] +=
              to_float(d_out[static_cast<size_t>(t * shape.dim + i)]);
        }
      }
      const auto compute = [&] {
        std::vector<float> d_table = before;
        embedding_scatter_add(d_table.data(), d_out.data(), ids.data(), shape.tokens, shape.dim);
        return d_table;
      };
      expect_independent_of_threads(compute);
      expect_same_bits(compute(), expected);
    }
  });
}

TYPED_TEST(EmbeddingScatterAdd, EmptyWorkTouchesNothing) {
  const TypeParam* none = nullptr;
  embedding_scatter_add(nullptr, none, nullptr, 0, 16);
  const int32_t id = 0;
  embedding_scatter_add(nullptr, none, &id, 1, 0);
  TypeParam* out = nullptr;
  embedding_gather(out, none, nullptr, 0, 16);
}

}  // namespace
}  // namespace deeptitan::cpu

#include "kernels/cuda/embedding/embedding.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cpu/embedding/embedding.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

constexpr int64_t kVocab = 53, kDim = 301;

/// Ids with many repetitions, some of them far apart.
std::vector<int32_t> draw_ids(int64_t tokens) {
  std::vector<int32_t> ids(tokens);
  for (int64_t t = 0; t < tokens; ++t) ids[t] = static_cast<int32_t>(random_bits(20, t) % (t % 3 == 0 ? kVocab : 3));
  return ids;
}

template <typename T>
class Embedding : public OverElementTypes<T> {};
TYPED_TEST_SUITE(Embedding, ElementTypes, ElementName);

TYPED_TEST(Embedding, GatherHasTheBitsOfTheCpu) {
  using T = TypeParam;
  const std::vector<int32_t> ids = draw_ids(700);
  DeviceBuffer<int32_t> device_ids(ids);
  const auto check = [&](auto* table_type) {
    using Table = std::remove_pointer_t<decltype(table_type)>;
    for (const int64_t dim : {kDim, int64_t{304}, int64_t{2052}}) {
      const auto table = random_elements<Table>(kVocab * dim, 21);
      std::vector<T> expected(700 * dim);
      cpu::embedding_gather(expected.data(), table.data(), ids.data(), 700, dim);
      DeviceBuffer<Table> device_table(table);
      DeviceBuffer<T> out(700 * dim);
      embedding_gather(out.get(), device_table.get(), device_ids.get(), 700, kVocab, dim, nullptr);
      EXPECT_TRUE(same_bytes(out.download(), expected)) << dim;
    }
  };
  check(static_cast<T*>(nullptr));
  if constexpr (std::is_same_v<T, bfloat16>) check(static_cast<float*>(nullptr));
}

TYPED_TEST(Embedding, GatherOfAnUnknownIdIsNaN) {
  using T = TypeParam;
  for (const int64_t dim : {kDim, int64_t{304}}) {
    DeviceBuffer<T> table(random_elements<T>(kVocab * dim, 22)), out(3 * dim);
    DeviceBuffer<int32_t> ids(std::vector<int32_t>{-1, 5, kVocab});
    embedding_gather(out.get(), table.get(), ids.get(), 3, kVocab, dim, nullptr);
    const std::vector<T> rows = out.download();
    for (int64_t i = 0; i < dim; ++i) {
      EXPECT_TRUE(std::isnan(to_float(rows[i])) && std::isnan(to_float(rows[2 * dim + i])));
      EXPECT_FALSE(std::isnan(to_float(rows[dim + i])));
    }
  }
}

TYPED_TEST(Embedding, ScatterAddHasTheBitsOfTheCpu) {
  using T = TypeParam;
  // Widths of whole words or not, more than a block's at once; more tokens than are looked at at once.
  for (const auto& [tokens, dim] : {std::pair<int64_t, int64_t>{1, kDim},
                                    {255, kDim},
                                    {1000, kDim},
                                    {1, 304},
                                    {255, 304},
                                    {1002, 2056},
                                    {4, 2048},
                                    {16384, 64},
                                    {35'003, 72}}) {
    if (only_small_sizes() && tokens > 255) continue;
    std::vector<int32_t> ids = draw_ids(tokens);
    if (tokens == 1002) ids[17] = -1, ids[500] = kVocab;  // add to nothing
    const auto d_out = random_elements<T>(tokens * dim, 23);
    auto expected = random_elements<float>(kVocab * dim, 24);
    DeviceBuffer<float> table(expected);
    DeviceBuffer<T> device_d_out(d_out);
    DeviceBuffer<int32_t> device_ids(ids);
    for (int64_t t = 0; t < tokens; ++t) {
      const bool known = 0 <= ids[t] && ids[t] < kVocab;
      if (known) cpu::embedding_scatter_add(expected.data(), &d_out[t * dim], &ids[t], 1, dim);
    }
    embedding_scatter_add(table.get(), device_d_out.get(), device_ids.get(), tokens, kVocab, dim, nullptr);
    EXPECT_TRUE(same_bytes(table.download(), expected)) << tokens << " of " << dim;
  }
}

}  // namespace
}  // namespace deeptitan::cuda

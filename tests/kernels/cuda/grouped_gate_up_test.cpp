// The experts' first product with SwiGLU behind it, in one launch, against the two launches that it stands for: the
// same bits, whatever the widths and the groups.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/cuda/activation/swiglu.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/grouped_gemm/grouped_gemm.h"
#include "kernels/grouped_gemm_reference.h"

// I columns of the result, K inputs.

namespace deeptitan::cuda {
namespace {

using Strategy = GroupedGemmStrategy;

class GroupedGateUp : public testing::Test {
 protected:
  void SetUp() override {
    DT_SKIP_WITHOUT_GPU();
    const auto available = available_grouped_gemm_strategies();
    if (std::find(available.begin(), available.end(), Strategy::kBf16) == available.end()) {
      GTEST_SKIP() << "needs compute capability 9.0";
    }
  }

  void expect_the_bits_of_two_launches(const RowGroups& groups, int width, int inputs,
                                       const GroupedGemmOptions& options = {}) {
    const auto count = static_cast<int>(groups.sizes.size());
    SCOPED_TRACE("I = " + std::to_string(width) + ", K = " + std::to_string(inputs) + ", " + std::to_string(count) +
                 " groups, " + std::to_string(groups.rows) + " rows");
    StoredOperand x = store_activations(Strategy::kBf16, random_values(groups.rows * inputs, 21), groups.rows, inputs);
    poison_rows_outside(groups, inputs, &x);
    const StoredOperand weights = store_weights(
        Strategy::kBf16, random_values(static_cast<int64_t>(count) * 2 * width * inputs, 22), count, 2 * width, inputs);
    DeviceBuffer<uint8_t> x_bytes(x.bytes), weight_bytes(weights.bytes);
    DeviceBuffer<int32_t> offsets(groups.offsets), sizes(groups.sizes);
    DeviceBuffer<bfloat16> gate_up(groups.rows * 2 * width), expected(groups.rows * width), found(groups.rows * width);
    for (DeviceBuffer<bfloat16>* buffer : {&expected, &found}) {
      DT_CUDA_CHECK(cudaMemset(buffer->get(), 0xff, buffer->bytes()));
    }
    grouped_gemm_forward(Strategy::kBf16, gate_up.get(), {x_bytes.get()}, {weight_bytes.get()},
                         {offsets.get(), sizes.get(), count, groups.rows, 2 * width, inputs}, {}, nullptr, nullptr);
    grouped_swiglu(expected.get(), gate_up.get(), gate_up.get() + width, 2 * width, {offsets.get(), sizes.get(), count},
                   groups.rows, width, nullptr);
    grouped_gemm_gate_up(found.get(), reinterpret_cast<const bfloat16*>(x_bytes.get()),
                         reinterpret_cast<const bfloat16*>(weight_bytes.get()),
                         {offsets.get(), sizes.get(), count, groups.rows, width, inputs}, options, nullptr);
    const std::vector<bfloat16> one = found.download(), two = expected.download();
    int64_t differing = 0;
    for (size_t i = 0; i < one.size(); ++i) differing += one[i].bits != two[i].bits ? 1 : 0;
    EXPECT_EQ(differing, 0) << "of " << one.size();
  }
};

TEST_F(GroupedGateUp, HasTheBitsOfProductAndSwiglu) {
  expect_the_bits_of_two_launches(make_groups({48, 0, 61, 64, 1, 129, 256}), 1408, 256);
  expect_the_bits_of_two_launches(make_groups({300, 40, 5}), 128, 512);
  expect_the_bits_of_two_launches(make_groups({33}), 8, 8);
}

TEST_F(GroupedGateUp, HasThemInShapesAndGroupsOfAnySize) {
  const uint64_t key = random_key("grouped_gate_up", 1);
  uint64_t next = 0;
  const auto below = [&](int64_t n) {
    return static_cast<int32_t>(random_bits(key, next++) % static_cast<uint64_t>(n));
  };
  constexpr int32_t kEdges[] = {0, 1, 63, 64, 65, 127, 128, 129, 300, 17};
  constexpr int kCounts[] = {1, 3, 5, 16, 33, 70};
  constexpr int kAlignments[] = {1, 8, 128};
  for (int i = 0; i < 12; ++i) {
    std::vector<int32_t> sizes(kCounts[below(6)]);
    for (int32_t& size : sizes) size = kEdges[below(10)];
    const RowGroups groups = make_groups(sizes, kAlignments[below(3)], below(9), 1 + below(200));
    const int width = 8 * (1 + below(80)), inputs = 8 * (1 + below(60));
    expect_the_bits_of_two_launches(groups, width, inputs, {.max_multiprocessors = i % 3 == 0 ? 6 : 0});
  }
}

}  // namespace
}  // namespace deeptitan::cuda

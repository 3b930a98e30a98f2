// Rows of tokens moved into the groups of other ranks' experts and back, against the CPU's twins.

#include "kernels/cuda/expert_rows/expert_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/expert_rows/expert_rows.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

/// A rank's memory: rows, then a weight of each.
struct Layout {
  int64_t capacity, hidden, element_bytes;
  int64_t weights() const { return (capacity * hidden * element_bytes + 255) / 256 * 256; }
  int64_t bytes() const { return weights() + (capacity * 4 + 255) / 256 * 256; }
};

/// The memory of all ranks, one after another, as rank `rank` sees it.
template <typename T>
struct Ranks {
  char* memory;
  Layout layout;
  PeerWindow window;

  Ranks(char* of_all, const Layout& of_one, int ranks, int rank)
      : memory(of_all), layout(of_one), window{.rank = rank, .n_ranks = ranks, .base = {}} {
    for (int r = 0; r < ranks; ++r) window.base[r] = memory + r * layout.bytes();
  }
  T* rows() { return reinterpret_cast<T*>(window.base[window.rank]); }
  float* weights() { return reinterpret_cast<float*>(window.base[window.rank] + layout.weights()); }
};

template <typename T>
class CudaExpertRows : public OverElementTypes<T> {};
TYPED_TEST_SUITE(CudaExpertRows, ElementTypes, ElementName);

// Widths of whole chunks, of one element, and whose rows do not start at 16 bytes; slots without a place.
TYPED_TEST(CudaExpertRows, MoveWithTheBitsOfTheCpu) {
  using T = TypeParam;
  std::mt19937 random(3);
  for (const int64_t hidden : {8, 1, 1031, 2048}) {
    for (const int ranks : {1, 3}) {
      for (const int top_k : {1, 6, 9}) {
        constexpr int64_t kTokens = 37;
        const int64_t capacity = kTokens * top_k + 5, slots = kTokens * top_k;
        const int rank = static_cast<int>(random() % static_cast<unsigned>(ranks));
        SCOPED_TRACE(testing::Message() << hidden << " wide, top " << top_k << ", rank " << rank << " of " << ranks);
        std::vector<int32_t> place(capacity * ranks);
        std::iota(place.begin(), place.end(), 0);
        std::shuffle(place.begin(), place.end(), random);
        place.resize(slots);
        for (int64_t slot = 4; slot < slots; slot += 11) place[slot] = -1;
        const auto x = random_elements<T>(kTokens * hidden, 1), addend = random_elements<T>(kTokens * hidden, 2);
        const auto weight = random_elements<float>(slots, 3);
        const Layout layout{capacity, hidden, sizeof(T)};
        std::vector<char> memory(layout.bytes() * ranks, 0);
        DeviceBuffer<char> device_memory(memory);
        DeviceBuffer<int32_t> device_place(place);
        DeviceBuffer<T> device_x(x), device_addend(addend), device_out(x.size());
        DeviceBuffer<float> device_weight(weight), device_values(slots);
        Ranks<T> host(memory.data(), layout, ranks, rank), device(device_memory.get(), layout, ranks, rank);
        const PlacedSlots host_slots{.place = place.data(), .tokens = kTokens, .top_k = top_k, .capacity = capacity};
        PlacedSlots device_slots = host_slots;
        device_slots.place = device_place.get();

        for (const bool weighted : {false, true}) {
          cpu::push_rows(host.rows(), weighted ? host.weights() : nullptr, x.data(), weighted ? weight.data() : nullptr,
                         host_slots, host.window, hidden);
          push_rows(device.rows(), weighted ? device.weights() : nullptr, device_x.get(),
                    weighted ? device_weight.get() : nullptr, device_slots, device.window, hidden, nullptr);
          EXPECT_TRUE(device_memory.download() == memory) << weighted;
          for (const bool added : {false, true}) {
            std::vector<T> out(x.size());
            cpu::pull_rows(out.data(), host.rows(), weighted ? weight.data() : nullptr, added ? addend.data() : nullptr,
                           host_slots, host.window, hidden);
            pull_rows(device_out.get(), device.rows(), weighted ? device_weight.get() : nullptr,
                      added ? device_addend.get() : nullptr, device_slots, device.window, hidden, nullptr);
            EXPECT_TRUE(same_bytes(device_out.download(), out)) << weighted << added;
          }
        }
        std::vector<float> values(slots);
        cpu::pull_values(values.data(), host.weights(), host_slots, host.window);
        pull_values(device_values.get(), device.weights(), device_slots, device.window, nullptr);
        EXPECT_EQ(device_values.download(), values);
      }
    }
  }
}

TYPED_TEST(CudaExpertRows, WeightGradientsHaveTheBitsOfTheCpu) {
  using T = TypeParam;
  for (const int64_t hidden : {8, 1, 1031, 2048}) {
    for (const int32_t count : {0, 1, 45}) {
      constexpr int64_t kCapacity = 50;
      auto rows = random_elements<T>(kCapacity * hidden, 4);
      const auto y = random_elements<T>(kCapacity * hidden, 5);
      const auto weight = random_elements<float>(kCapacity, 6);
      DeviceBuffer<T> device_rows(rows), device_y(y);
      std::vector<float> d_weight(kCapacity, 7.0f);
      DeviceBuffer<float> device_weight(weight), device_d_weight(d_weight);
      DeviceBuffer<int32_t> device_count(std::vector<int32_t>{count});
      cpu::weight_rows_backward(rows.data(), d_weight.data(), y.data(), weight.data(), &count, hidden);
      weight_rows_backward(device_rows.get(), device_d_weight.get(), device_y.get(), device_weight.get(),
                           device_count.get(), kCapacity, hidden, nullptr);
      EXPECT_TRUE(same_bytes(device_rows.download(), rows)) << hidden << " wide, " << count << " rows";
      EXPECT_EQ(device_d_weight.download(), d_weight) << hidden << " wide, " << count << " rows";
    }
  }
}

// Ranks whose kernels run beside each other on one GPU, exchange after exchange over one pad and across the epochs'
// wrap; in the last one a rank has more rows than there is room for.
TEST(CudaExpertRowsAgreed, AreWhereAllRanksCountsSay) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int kRanks = 3, kExperts = 12, kEach = kExperts / kRanks, kExchanges = 5;
  constexpr uint32_t kFirstEpoch = 0xfffffffdu;
  std::mt19937 random(4);
  const int64_t pad = counts_pad_bytes(kRanks, kExperts);
  DeviceBuffer<char> memory(std::vector<char>(kRanks * pad, 0));
  DeviceBuffer<PeerWords> words(
      std::vector<PeerWords>(kRanks, {.error = 0, .barrier_epoch = 0, .counts_epoch = kFirstEpoch}));
  std::vector<cudaStream_t> streams(kRanks);
  for (cudaStream_t& stream : streams) DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int exchange = 0; exchange < kExchanges; ++exchange) {
    std::vector<int32_t> counts(kRanks * kExperts), of_rank(kRanks, 0);
    for (int i = 0; i < kRanks * kExperts; ++i) {
      counts[i] = random() % 4 == 0 ? 0 : static_cast<int32_t>(random() % 50);
      of_rank[i % kExperts / kEach] += counts[i];
    }
    const int32_t most = *std::max_element(of_rank.begin(), of_rank.end());
    const bool fits = exchange + 1 < kExchanges;
    DeviceBuffer<int32_t> device_counts(counts), all_counts(kRanks * kRanks * kExperts), first_row(kRanks * kExperts),
        group_offset(kRanks * (kEach + 1)), group_size(kRanks * kEach), overflow(std::vector<int32_t>(kRanks, 0));
    DT_CUDA_CHECK(cudaDeviceSynchronize());
    for (int r = 0; r < kRanks; ++r) {
      PeerExchange peers{.window = {.rank = r, .n_ranks = kRanks, .base = {}},
                         .most_experts = kExperts,
                         .words = words.get() + r,
                         .timeout_ns = 20'000'000'000};
      for (int p = 0; p < kRanks; ++p) peers.window.base[p] = memory.get() + p * pad;
      agree_on_rows({.first_row = first_row.get() + r * kExperts,
                     .group_offset = group_offset.get() + r * (kEach + 1),
                     .group_size = group_size.get() + r * kEach,
                     .row_overflow = overflow.get() + r},
                    device_counts.get() + r * kExperts, all_counts.get() + r * kRanks * kExperts,
                    {.slots = 0, .experts = kExperts, .capacity = fits ? most : most - 1}, peers, streams[r]);
    }
    std::vector<int32_t> expected_first, expected_offset, expected_size;
    for (int r = 0; r < kRanks; ++r) {
      int32_t row = 0;
      for (int e = 0; e < kExperts; ++e) {
        if (e % kEach == 0) row = 0;
        int32_t before = 0, all = 0;
        for (int p = 0; p < kRanks; ++p) {
          if (p < r) before += counts[p * kExperts + e];
          all += counts[p * kExperts + e];
        }
        expected_first.push_back(fits ? row + before : -1);
        if (e / kEach == r) {
          expected_offset.push_back(fits ? row : 0);
          expected_size.push_back(fits ? all : 0);
        }
        row += all;
        if (e / kEach == r && e % kEach == kEach - 1) expected_offset.push_back(fits ? row : 0);
      }
    }
    EXPECT_EQ(first_row.download(), expected_first) << exchange;
    EXPECT_EQ(group_offset.download(), expected_offset) << exchange;
    EXPECT_EQ(group_size.download(), expected_size) << exchange;
    EXPECT_EQ(overflow.download(), std::vector<int32_t>(kRanks, fits ? 0 : 1)) << exchange;
    for (const PeerWords& of_one : words.download()) EXPECT_EQ(of_one.error, 0u) << exchange;
  }
  for (const cudaStream_t stream : streams) DT_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace deeptitan::cuda

#include "kernels/cpu/expert_rows/expert_rows.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <type_traits>

#include "core/clock.h"
#include "kernels/cpu/permute/permute.h"
#include "kernels/cuda/barrier/wait_error.h"
#include "kernels/exact_math.h"

namespace deeptitan::cpu {
namespace {

using cuda::PeerWindow;
using cuda::WaitKind;

constexpr auto kPause = std::chrono::microseconds(20);

// Waits until ready(), gives way meanwhile. False where it takes too long, or something has failed before.
template <typename Ready>
bool wait_until(const PeerExchange& peers, WaitKind kind, int peer, uint32_t epoch, const Ready& ready) {
  const double end = monotonic_seconds() + 1e-9 * static_cast<double>(peers.timeout_ns);
  while (!ready()) {
    if (peers.words->error != 0) return false;
    if (monotonic_seconds() > end) {
      peers.words->error = cuda::encode_wait_error({kind, peers.window.rank, peer, epoch});
      return false;
    }
    std::this_thread::sleep_for(kPause);  // who sleeps comes back soon also where others compute
  }
  return true;
}

template <typename T>
std::atomic_ref<T> word(const PeerExchange& peers, int rank, int64_t offset) {
  return std::atomic_ref<T>(*reinterpret_cast<T*>(peers.window.base[rank] + offset));
}

template <typename T>
T* at_place(T* mine, const PlacedSlots& slots, const PeerWindow& window, int32_t place, int64_t width) {
  const int64_t offset = reinterpret_cast<uintptr_t>(mine) - reinterpret_cast<uintptr_t>(window.base[window.rank]);
  return reinterpret_cast<T*>(window.base[place / slots.capacity] + offset) + place % slots.capacity * width;
}

template <typename T>
void push_rows_of(T* rows, float* row_weight, const T* x, const float* weight, const PlacedSlots& slots,
                  const PeerWindow& window, int64_t hidden) {
  for (int64_t slot = 0; slot < slots.tokens * slots.top_k; ++slot) {
    const int32_t place = slots.place[slot];
    if (place < 0) continue;
    std::copy_n(x + slot / slots.top_k * hidden, hidden, at_place(rows, slots, window, place, hidden));
    if (row_weight != nullptr) *at_place(row_weight, slots, window, place, 1) = weight[slot];
  }
}

template <typename T>
void pull_rows_of(T* out, const T* rows, const float* weight, const T* addend, const PlacedSlots& slots,
                  const PeerWindow& window, int64_t hidden) {
  for (int64_t t = 0; t < slots.tokens; ++t) {
    for (int64_t d = 0; d < hidden; ++d) {
      float sum = 0.0f;
      for (int64_t slot = t * slots.top_k; slot < (t + 1) * slots.top_k; ++slot) {
        if (slots.place[slot] < 0) continue;
        const T value = at_place(rows, slots, window, slots.place[slot], hidden)[d];
        sum = exact_fma(weight == nullptr ? 1.0f : weight[slot], to_float(value), sum);
      }
      if (addend != nullptr) sum += to_float(addend[t * hidden + d]);
      if constexpr (std::is_same_v<T, float>) {
        out[t * hidden + d] = sum;
      } else {
        out[t * hidden + d] = to_bfloat16(sum);
      }
    }
  }
}

template <typename T>
void weight_rows_backward_of(T* d_rows, float* d_weight, const T* y, const float* weight, const int32_t* count,
                             int64_t hidden) {
  const int32_t first = 0;
  const RowMap one_row{.row_of_slot = &first, .slot_of_row = &first, .tokens = 1, .rows = 1, .top_k = 1};
  for (int64_t r = 0; r < *count; ++r) {
    T* row = d_rows + r * hidden;
    unpermute_rows_backward(row, d_weight + r, row, y + r * hidden, weight + r, one_row, hidden);
  }
}

}  // namespace

void meet_ranks(const PeerExchange& peers) {
  const PeerWindow& window = peers.window;
  if (window.n_ranks == 1 || peers.words->error != 0) return;
  const uint32_t epoch = ++peers.words->barrier_epoch;
  const auto offset = [&](int rank) { return peers.barrier_pad + rank * static_cast<int64_t>(sizeof(uint32_t)); };
  for (int peer = 0; peer < window.n_ranks; ++peer) {
    if (peer != window.rank) word<uint32_t>(peers, peer, offset(window.rank)).store(epoch, std::memory_order_release);
  }
  for (int peer = 0; peer < window.n_ranks; ++peer) {
    if (peer == window.rank) continue;
    const auto seen = word<uint32_t>(peers, window.rank, offset(peer));
    const auto came = [&] { return static_cast<int32_t>(seen.load(std::memory_order_acquire) - epoch) >= 0; };
    if (!wait_until(peers, WaitKind::kBarrier, peer, epoch, came)) return;
  }
}

void agree_on_rows(const AgreedRows& agreed, const int32_t* counts, int32_t* all_counts, const ExpertRowsShape& shape,
                   const PeerExchange& peers) {
  const PeerWindow& window = peers.window;
  const int experts = shape.experts, ranks = window.n_ranks, each = experts / ranks;
  const uint32_t epoch = epoch_behind(peers.words->counts_epoch);
  const auto offset = [&](int source, int expert) {
    return peers.counts_pad + counts_offset(epoch, ranks, source, peers.most_experts) + expert * int64_t{8};
  };
  for (int i = 0; i < ranks * experts; ++i) {
    if (i / experts == window.rank) continue;
    word<uint64_t>(peers, i / experts, offset(window.rank, i % experts))
        .store(counted_word(epoch, counts[i % experts]), std::memory_order_release);
  }
  bool nothing = peers.words->error != 0;
  for (int i = 0; i < ranks * experts; ++i) {
    all_counts[i] = counts[i % experts];
    if (i / experts == window.rank || nothing) continue;
    const auto theirs = word<uint64_t>(peers, window.rank, offset(i / experts, i % experts));
    nothing = !wait_until(peers, WaitKind::kSplits, i / experts, epoch,
                          [&] { return theirs.load(std::memory_order_acquire) >> 32 == epoch; });
    all_counts[i] = static_cast<int32_t>(theirs.load(std::memory_order_acquire));
  }
  peers.words->counts_epoch = epoch;

  bool overflows = false;
  int64_t first = 0;  // of the expert's rows, on its rank
  for (int e = 0; e < experts; ++e) {
    if (e % each == 0) first = 0;
    const bool own = e / each == window.rank;
    if (own) agreed.group_offset[e % each] = static_cast<int32_t>(first);
    agreed.first_row[e] = static_cast<int32_t>(first);
    int64_t size = 0;
    for (int p = 0; p < ranks; ++p) {
      const int32_t count = all_counts[p * experts + e];
      if (p < window.rank) agreed.first_row[e] += count;
      size += count;
    }
    if (own) agreed.group_size[e % each] = static_cast<int32_t>(size);
    first += size;
    if (own && e % each == each - 1) agreed.group_offset[each] = static_cast<int32_t>(first);
    overflows = overflows || first > shape.capacity;
  }
  if (overflows && agreed.row_overflow != nullptr && !nothing) *agreed.row_overflow = 1;
  if (!overflows && !nothing) return;
  std::fill_n(agreed.first_row, experts, -1);
  std::fill_n(agreed.group_offset, each + 1, 0);
  std::fill_n(agreed.group_size, each, 0);
}

void place_slots(int32_t* place, const int32_t* expert_index, const int32_t* row_of_slot, const int32_t* group_offset,
                 const int32_t* first_row, const ExpertRowsShape& shape, int experts_of_rank) {
  for (int64_t slot = 0; slot < shape.slots; ++slot) {
    const int32_t expert = expert_index[slot], first = first_row[expert];
    const auto rank_begin = static_cast<int32_t>(expert / experts_of_rank * shape.capacity);
    place[slot] = first < 0 ? -1 : rank_begin + first + row_of_slot[slot] - group_offset[expert];
  }
}

void push_rows(float* rows, float* row_weight, const float* x, const float* weight, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden) {
  push_rows_of(rows, row_weight, x, weight, slots, window, hidden);
}
void push_rows(bfloat16* rows, float* row_weight, const bfloat16* x, const float* weight, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden) {
  push_rows_of(rows, row_weight, x, weight, slots, window, hidden);
}

void pull_rows(float* out, const float* rows, const float* weight, const float* addend, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden) {
  pull_rows_of(out, rows, weight, addend, slots, window, hidden);
}
void pull_rows(bfloat16* out, const bfloat16* rows, const float* weight, const bfloat16* addend,
               const PlacedSlots& slots, const PeerWindow& window, int64_t hidden) {
  pull_rows_of(out, rows, weight, addend, slots, window, hidden);
}

void pull_values(float* out, const float* values, const PlacedSlots& slots, const PeerWindow& window) {
  for (int64_t slot = 0; slot < slots.tokens * slots.top_k; ++slot) {
    const int32_t place = slots.place[slot];
    out[slot] = place < 0 ? 0.0f : *at_place(values, slots, window, place, 1);
  }
}

void weight_rows_backward(float* d_rows, float* d_weight, const float* y, const float* weight, const int32_t* count,
                          int64_t hidden) {
  weight_rows_backward_of(d_rows, d_weight, y, weight, count, hidden);
}
void weight_rows_backward(bfloat16* d_rows, float* d_weight, const bfloat16* y, const float* weight,
                          const int32_t* count, int64_t hidden) {
  weight_rows_backward_of(d_rows, d_weight, y, weight, count, hidden);
}

}  // namespace deeptitan::cpu

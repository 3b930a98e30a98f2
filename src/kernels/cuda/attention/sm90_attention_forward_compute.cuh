#pragma once

// Hopper's forward of attention: the two warpgroups that multiply.

#include "kernels/cuda/attention/row_softmax.cuh"
#include "kernels/cuda/attention/sm90_attention_forward_load.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sm90_wgmma_bf16.cuh"

namespace deeptitan::cuda::sm90::attention_forward {

// Named barriers; 0 is __syncthreads.
constexpr int kTurnBarrier = 1;   // and 2: warpgroup 0's and 1's turn to multiply
constexpr int kClearBarrier = 3;  // values are cleared
constexpr int kShortBarrier = 4;  // and 5: a warpgroup's own

/// S [64, kKeys] = 64 rows of queries times kKeys rows of keys. Blocks of queries lie kQueryRows rows apart.
template <typename H, int kQueryRows, int kKeys>
__device__ __forceinline__ void multiply_scores(float* s, uint32_t query, uint32_t key) {
  const uint32_t a = make_descriptor(query, 0), b = make_descriptor(key, 0);
  wgmma_fence();
  wgmma_bf16_overwrite<kKeys, 0, 0>(s, a, b);
#pragma unroll
  for (int step = 1; step < H::kKeySteps; ++step) {
    const int block = step / 4, inside = step % 4 * 2;
    wgmma_bf16<kKeys, 0, 0>(s, a + block * (kQueryRows * 8) + inside, b + block * (kKeys * 8) + inside, 1);
  }
  wgmma_commit();
}

/// O [64, Dv] = or += P [64, kKeys] times kKeys rows of values.
template <typename H, int kKeys, bool kAccumulate>
__device__ __forceinline__ void multiply_values(float* o, const uint32_t* p, uint32_t value) {
  const uint32_t b = make_descriptor(value, kKeys * 128);
  if constexpr (kAccumulate) pin_registers<H::kValueDim / 2>(o);
  wgmma_fence();
  if constexpr (kAccumulate) {
    wgmma_bf16_registers<H::kValueDim, 1>(o, p, b, 1);
  } else {
    wgmma_bf16_registers_overwrite<H::kValueDim, 1>(o, p, b);
  }
#pragma unroll
  for (int step = 1; step < kKeys / 16; ++step) {
    wgmma_bf16_registers<H::kValueDim, 1>(o, p + 4 * step, b + step * 128, 1);
  }
  wgmma_commit();
}

/// Keeps the operand of a product in flight where it is.
template <int kCount>
__device__ __forceinline__ void pin_operand(uint32_t* p) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(p[i])::"memory");
}

/// Hides the keys behind each row: `row` is this lane's first, counted as the tile's keys are.
template <int kKeys>
__device__ __forceinline__ void mask_diagonal(float* s, int row, int lane) {
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    const int key = i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (key > row + i % 4 / 2 * 8) s[i] = -INFINITY;
  }
}

/// s becomes the weights, to the base of the rows' maxima, which grow; `correction` is what older weights are worth.
template <int kKeys, bool kFirst>
__device__ __forceinline__ void exponentiate(float* s, RowState& rows, float (&correction)[2], float scale) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = row_max<kKeys>(s, half);
    if constexpr (!kFirst) max = fmaxf(max, rows.max[half]);
    const float subtracted = max * scale;
    if constexpr (!kFirst) correction[half] = exp2_fast(fmaf(rows.max[half], scale, -subtracted));
    rows.max[half] = max;
    const float sum = weigh_row<kKeys>(s, half, scale, subtracted);
    rows.sum[half] = kFirst ? sum : fmaf(rows.sum[half], correction[half], sum);
  }
}

template <int kKeys>
__device__ __forceinline__ void pack_weights(uint32_t* p, const float* s) {
#pragma unroll
  for (int i = 0; i < kKeys / 4; ++i) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

/// Clears rows `first` .. kKeys - 1 of a tile of values; `threads` threads, which have to meet before they multiply.
template <typename H, int kKeys>
__device__ __forceinline__ void clear_values(uint32_t value, int first, int thread, int threads) {
  const int chunks = (kKeys - first) * 8;
#pragma unroll
  for (int block = 0; block < H::kValueBlocks; ++block) {
    for (int chunk = thread; chunk < chunks; chunk += threads) {
      store_shared(value + block * (kKeys * 128) + first * 128 + chunk * 16, make_int4(0, 0, 0, 0));
    }
  }
  fence_async_shared();
}

/// After it lane l of four neighbours holds what lane i held as x[l] in x[i].
__device__ __forceinline__ void transpose_quad(uint32_t (&x)[4], int lane) {
  const bool odd = lane % 2 != 0, high = lane % 4 >= 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t received = __shfl_xor_sync(kAllLanes, odd ? x[i] : x[i + 1], 1);
    (odd ? x[i] : x[i + 1]) = received;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t received = __shfl_xor_sync(kAllLanes, high ? x[i] : x[i + 2], 2);
    (high ? x[i] : x[i + 2]) = received;
  }
}

/// Writes a warpgroup's rows as far as they are the document's: `row` is this lane's first.
template <typename H>
__device__ __forceinline__ void store_rows(const Parameters& p, const float* o, const RowState& rows, int row,
                                           const AttentionTile& tile, int head, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_sum(rows.sum[half]);
    const float inverse = 1.0f / sum;
    const int64_t token = row + 8 * half;
    const bool inside = token >= tile.rows_first && token < tile.rows_end;
    if (p.log_sum_exp != nullptr && inside && lane % 4 == 0) {
      p.log_sum_exp[token * p.heads + head] = rows.max[half] * p.scale + logf(sum);
    }
    bfloat16* to = p.out + (token * p.heads + head) * H::kValueDim + lane % 4 * 8;
#pragma unroll
    for (int n = 0; n < H::kValueDim / 8; n += 4) {
      uint32_t x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = o + 4 * (n + i) + 2 * half;
        x[i] = pack_bf16(pair[0] * inverse, pair[1] * inverse);
      }
      transpose_quad(x, lane);
      if (inside) *reinterpret_cast<uint4*>(to + 8 * n) = make_uint4(x[0], x[1], x[2], x[3]);
    }
  }
}

/// Two warpgroups work off what the producer loads.
template <typename H>
__device__ __forceinline__ void consume(const Parameters& p, const Shared<H>& shared, const Barriers* barriers) {
  const int thread = static_cast<int>(threadIdx.x) - kProducerThreads;
  const int lane = thread % kWarp, warp = thread / kWarp % 4;
  const int warpgroup = __shfl_sync(kAllLanes, thread / 128, 0);
  const int own_row = warp * 16 + lane / 4;
  const float scale = p.scale * kLog2E;
  const auto release = [&](uint32_t barrier) {
    if (lane == 0) mbarrier_arrive(barrier);
  };
  // Every lane has read what the tile's work is, and so arrives itself.
  const auto release_query = [&] { mbarrier_arrive(shared.query_empty()); };
  Cursor key, value;
  uint32_t query_lap = 0;
  if (warpgroup == 1) named_barrier_arrive(kTurnBarrier, kConsumerThreads);
  while (true) {
    mbarrier_wait(shared.query_full(), query_lap);
    query_lap ^= 1;
    const AttentionTile tile = barriers->work.tile;
    const int held = tile.rows_end - tile.first_row;  // rows, and so keys on the diagonal, up to the document's end
    if (held == 0) {
      // The turn that warpgroup 1 gave last is taken: no barrier is left half full.
      if (warpgroup == 0) named_barrier_sync(kTurnBarrier, kConsumerThreads);
      break;
    }
    if (tile.is_short != 0) {
      float s[kShortRows / 2], o[H::kValueDim / 2], correction[2];
      uint32_t weights[kShortRows / 4];
      RowState rows;
      const int head = barriers->work.head + warpgroup;
      mbarrier_wait(shared.key_full(key.index), key.lap);
      multiply_scores<H, kShortRows, kShortRows>(s, shared.query() + warpgroup * (H::kKeyBytes / 2),
                                                 shared.key(key.index) + warpgroup * (H::kKeyBytes / 2));
      wgmma_wait<0>();
      pin_registers<kShortRows / 2>(s);
      release_query();
      release(shared.key_empty(key.index));
      key.advance();
      mask_diagonal<kShortRows>(s, own_row, lane);
      exponentiate<kShortRows, true>(s, rows, correction, scale);
      pack_weights<kShortRows>(weights, s);
      const uint32_t values = shared.value(value.index) + warpgroup * (H::kValueBytes / 2);
      mbarrier_wait(shared.value_full(value.index), value.lap);
      if (held < kShortRows) {
        clear_values<H, kShortRows>(values, held, thread % 128, 128);
        named_barrier_sync(kShortBarrier + warpgroup, 128);
      }
      multiply_values<H, kShortRows, false>(o, weights, values);
      wgmma_wait<0>();
      pin_registers<H::kValueDim / 2>(o);
      pin_operand<kShortRows / 4>(weights);
      release(shared.value_empty(value.index));
      value.advance();
      if (head < p.heads) store_rows<H>(p, o, rows, tile.first_row + own_row, tile, head, lane);
      continue;
    }
    const int head = barriers->work.head;
    const int first_row = tile.first_row + warpgroup * 64;
    if (first_row >= tile.rows_end) {
      // None of this warpgroup's rows is the document's: it only takes its turns.
      release_query();
      for (int step = 0; step <= tile.older; ++step) {
        mbarrier_wait(shared.key_full(key.index), key.lap);
        release(shared.key_empty(key.index));
        key.advance();
        mbarrier_wait(shared.value_full(value.index), value.lap);
        if (step == 0) {
          clear_values<H, kRows>(shared.value(value.index), held, thread, kConsumerThreads);
          named_barrier_arrive(kClearBarrier, kConsumerThreads);
        } else {
          named_barrier_sync(kTurnBarrier + warpgroup, kConsumerThreads);
          named_barrier_arrive(kTurnBarrier + 1 - warpgroup, kConsumerThreads);
        }
        release(shared.value_empty(value.index));
        value.advance();
      }
      continue;
    }
    float s[kRows / 2], o[H::kValueDim / 2] = {}, correction[2];
    uint32_t weights[kRows / 4];
    RowState rows;
    const uint32_t query = shared.query() + warpgroup * 64 * 128;
    mbarrier_wait(shared.key_full(key.index), key.lap);
    multiply_scores<H, kRows, kRows>(s, query, shared.key(key.index));
    wgmma_wait<0>();
    pin_registers<kRows / 2>(s);
    if (tile.older == 0) release_query();
    release(shared.key_empty(key.index));
    key.advance();
    mask_diagonal<kRows>(s, warpgroup * 64 + own_row, lane);
    exponentiate<kRows, true>(s, rows, correction, scale);
    pack_weights<kRows>(weights, s);
    if (held < kRows) {
      mbarrier_wait(shared.value_full(value.index), value.lap);
      clear_values<H, kRows>(shared.value(value.index), held, thread, kConsumerThreads);
      named_barrier_sync(kClearBarrier, kConsumerThreads);
    }
    for (int step = 1; step <= tile.older; ++step) {
      mbarrier_wait(shared.key_full(key.index), key.lap);
      named_barrier_sync(kTurnBarrier + warpgroup, kConsumerThreads);
      multiply_scores<H, kRows, kRows>(s, query, shared.key(key.index));
      mbarrier_wait(shared.value_full(value.index), value.lap);
      multiply_values<H, kRows, true>(o, weights, shared.value(value.index));
      named_barrier_arrive(kTurnBarrier + 1 - warpgroup, kConsumerThreads);
      wgmma_wait<1>();
      pin_registers<kRows / 2>(s);
      if (step == tile.older) release_query();
      release(shared.key_empty(key.index));
      key.advance();
      exponentiate<kRows, false>(s, rows, correction, scale);
      wgmma_wait<0>();
      pin_registers<H::kValueDim / 2>(o);
      pin_operand<kRows / 4>(weights);
      release(shared.value_empty(value.index));
      value.advance();
#pragma unroll
      for (int i = 0; i < H::kValueDim / 2; ++i) o[i] *= correction[i % 4 / 2];
      pack_weights<kRows>(weights, s);
    }
    mbarrier_wait(shared.value_full(value.index), value.lap);
    multiply_values<H, kRows, true>(o, weights, shared.value(value.index));
    wgmma_wait<0>();
    pin_registers<H::kValueDim / 2>(o);
    pin_operand<kRows / 4>(weights);
    release(shared.value_empty(value.index));
    value.advance();
    store_rows<H>(p, o, rows, first_row + own_row, tile, head, lane);
  }
}

}  // namespace deeptitan::cuda::sm90::attention_forward

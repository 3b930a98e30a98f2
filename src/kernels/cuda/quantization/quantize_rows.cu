#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/fast_divide.h"
#include "kernels/cuda/permute/padding.cuh"
#include "kernels/cuda/quantization/group.cuh"
#include "kernels/cuda/quantization/quantization.h"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroupsOfBlock = kThreads / kThreadsOfGroup;

template <bool kVector>
struct PlainRows {
  const bfloat16* x;
  int64_t columns;

  struct Fetched {
    FetchedChunk<bfloat16, kVector> chunk;
  };
  __device__ void fetch(Fetched& fetched, int64_t row, int64_t column, int n) const {
    fetched.chunk.fetch(x + row * columns + column, n);
  }
  __device__ void unpack(float (&v)[kChunk], const Fetched& fetched) const { fetched.chunk.unpack(v); }
};

template <bool kVector>
struct SwigluRows {
  GatedRows x;

  struct Fetched {
    FetchedChunk<bfloat16, kVector> gate, up;
  };
  __device__ void fetch(Fetched& fetched, int64_t row, int64_t column, int n) const {
    fetched.gate.fetch(x.gate + row * x.ld + column, n);
    fetched.up.fetch(x.up + row * x.ld + column, n);
  }
  __device__ void unpack(float (&v)[kChunk], const Fetched& fetched) const {
    float gate[kChunk], up[kChunk];
    fetched.gate.unpack(gate);
    fetched.up.unpack(up);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = gated_value(gate[i], up[i]);
  }
};

/// The values of group `group` of a row that this thread holds; absent ones are 0.
template <typename Rows>
__device__ GroupValues load_group(const Rows& x, int64_t row, int64_t group, int64_t columns, bool exists) {
  const int t = threadIdx.x % kThreadsOfGroup;
  typename Rows::Fetched fetched[kChunksOfThread];
#pragma unroll
  for (int i = 0; i < kChunksOfThread; ++i) {
    const int64_t column = group * kQuantizationGroup + column_in_group(t, i);
    x.fetch(fetched[i], row, column, exists ? chunk_elements(column, columns) : 0);
  }
  GroupValues values;
#pragma unroll
  for (int i = 0; i < kChunksOfThread; ++i) x.unpack(values.v[i], fetched[i]);
  return values;
}

/// Writes this thread's codes of group `group` of row q_row.
template <bool kVector>
__device__ void store_group(float8_e4m3* q_row, const GroupCodes& codes, int64_t group, int64_t columns) {
  const int t = threadIdx.x % kThreadsOfGroup;
#pragma unroll
  for (int i = 0; i < kChunksOfThread; ++i) {
    const int64_t column = group * kQuantizationGroup + column_in_group(t, i);
    const int n = chunk_elements(column, columns);
    if (n > 0) store_chunk(q_row + column, codes.codes[i], n, kVector);
  }
}

/// Eight threads a group; groups are numbered row by row.
template <typename Rows, bool kVector>
__global__ void __launch_bounds__(kThreads)
    quantize_rows_kernel(float8_e4m3* __restrict__ q, float* __restrict__ scale, Rows x, int64_t rows, int64_t columns,
                         FastDivide groups, QuantizeOptions options) {
  const uint32_t index = blockIdx.x * kGroupsOfBlock + threadIdx.x / kThreadsOfGroup;
  const int64_t row = groups.divide(index);
  const int64_t group = index - static_cast<uint32_t>(row) * groups.divisor();
  const GroupValues values = load_group(x, row, group, columns, row < rows);
  GroupScale s;
  const GroupCodes codes = quantize_group(s, values, options.kind);
  if (row >= rows) return;
  store_group<kVector>(q + row * columns, codes, group, columns);
  if (threadIdx.x % kThreadsOfGroup == 0) {
    scale[scale_index(row, group, rows, groups.divisor(), options.layout)] = s.scale;
  }
}

template <template <bool> typename Rows, bool kVector, typename... Arguments>
void launch_quantize_rows(float8_e4m3* q, float* scale, int64_t rows, int64_t columns, const QuantizeOptions& options,
                          cudaStream_t stream, Arguments... arguments) {
  const int64_t groups = quantization_groups(columns);
  DT_CHECK(rows * groups + kGroupsOfBlock < (int64_t{1} << 31),
           "quantize_rows: {} rows of {} columns are more groups of 128 than one launch holds (2^31)", rows, columns);
  const auto blocks = static_cast<unsigned>((rows * groups + kGroupsOfBlock - 1) / kGroupsOfBlock);
  quantize_rows_kernel<Rows<kVector>, kVector><<<blocks, kThreads, 0, stream>>>(
      q, scale, Rows<kVector>{arguments...}, rows, columns, FastDivide(static_cast<uint32_t>(groups)), options);
  check_launch("quantize_rows_kernel");
}

constexpr int kMostPermutedThreads = 512;

/// Blocks below map.tokens quantise a token and write it to its K rows; the others write the rows of padding, as the
/// quantised zeros that they are. With token_scale [T, groups] the scales go there alone, once a token.
template <bool kVector>
__global__ void __launch_bounds__(kMostPermutedThreads, 3)
    quantize_permuted_rows_kernel(float8_e4m3* __restrict__ q, float* __restrict__ scale,
                                  float* __restrict__ token_scale, PlainRows<kVector> x, RowMap map, ScaleKind kind) {
  const int64_t columns = x.columns;
  const int64_t groups = quantization_groups(columns);
  const bool first_of_group = threadIdx.x % kThreadsOfGroup == 0;
  const int64_t group_stride = blockDim.x / kThreadsOfGroup;
  const int64_t block = blockIdx.x;
  if (block >= map.tokens) {
    const float zero_scale = group_scale(0.0f, kind).scale;
    for_each_padding_row(map, block - map.tokens, [&](int64_t row) {
      for (int64_t group = threadIdx.x / kThreadsOfGroup; group < groups; group += group_stride) {
        store_group<kVector>(q + row * columns, GroupCodes{}, group, columns);
        if (first_of_group && token_scale == nullptr) scale[row * groups + group] = zero_scale;
      }
    });
    return;
  }
  // Whole warps stay in the loop, since the eight threads of a group exchange values.
  for (int64_t first = 0; first < groups; first += group_stride) {
    const int64_t group = first + threadIdx.x / kThreadsOfGroup;
    GroupScale s;
    const GroupCodes codes = quantize_group(s, load_group(x, block, group, columns, true), kind);
    if (group >= groups) continue;
    if (first_of_group && token_scale != nullptr) token_scale[block * groups + group] = s.scale;
    for (int k = 0; k < map.top_k; ++k) {
      const int64_t row = map.row_of_slot[block * map.top_k + k];
      if (row < 0) continue;
      store_group<kVector>(q + row * columns, codes, group, columns);
      if (first_of_group && token_scale == nullptr) scale[row * groups + group] = s.scale;
    }
  }
}

constexpr int kTile = 32;
constexpr int kSpreadThreads = 256;

/// Column-major scales of the permuted rows from the tokens' row-major ones, in tiles of 32 rows by 32 groups: written
/// row by row they would be four bytes in each 32-byte sector.
__global__ void __launch_bounds__(kSpreadThreads)
    spread_scales_kernel(float* __restrict__ scale, const float* __restrict__ token_scale, RowMap map, int64_t groups,
                         float zero_scale) {
  __shared__ float tile[kTile][kTile + 1];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_group = static_cast<int64_t>(blockIdx.y) * kTile;
#pragma unroll
  for (int i = warp; i < kTile; i += kSpreadThreads / kWarp) {
    const int64_t row = first_row + i;
    const int64_t group = first_group + lane;
    if (row >= map.rows || group >= groups) continue;
    const int32_t slot = map.slot_of_row[row];
    tile[i][lane] = slot < 0 ? zero_scale : token_scale[slot / map.top_k * groups + group];
  }
  __syncthreads();
#pragma unroll
  for (int i = warp; i < kTile; i += kSpreadThreads / kWarp) {
    const int64_t row = first_row + lane;
    const int64_t group = first_group + i;
    if (row < map.rows && group < groups) scale[group * scale_stride(map.rows) + row] = tile[lane][i];
  }
}

constexpr int kWholeRowThreads = 256;

/// One scale a row: a block a row, which it reads twice (the second time from the nearest caches).
__global__ void __launch_bounds__(kWholeRowThreads)
    quantize_whole_rows_kernel(float8_e4m3* __restrict__ q, float* __restrict__ scale, const bfloat16* __restrict__ x,
                               int64_t columns, ScaleKind kind, bool vector) {
  __shared__ float warp_maxima[kWholeRowThreads / kWarp];
  const int64_t row = blockIdx.x;
  float amax = 0.0f;
  for (int64_t column = threadIdx.x * kChunk; column < columns; column += kWholeRowThreads * kChunk) {
    float v[kChunk];
    load_chunk(v, x + row * columns + column, chunk_elements(column, columns), vector);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) amax = fmaxf(amax, is_finite(v[i]) ? fabsf(v[i]) : 0.0f);
  }
  amax = warp_max(amax);
  if (threadIdx.x % kWarp == 0) warp_maxima[threadIdx.x / kWarp] = amax;
  __syncthreads();
  amax = warp_max(warp_maxima[threadIdx.x % (kWholeRowThreads / kWarp)]);
  const GroupScale s = group_scale(amax, kind);
  if (threadIdx.x == 0) scale[row] = s.scale;
  for (int64_t column = threadIdx.x * kChunk; column < columns; column += kWholeRowThreads * kChunk) {
    const int n = chunk_elements(column, columns);
    float v[kChunk];
    load_chunk(v, x + row * columns + column, n, vector);
    store_chunk(q + row * columns + column, round_chunk(v, s.inverse, true), n, vector);
  }
}

}  // namespace

void quantize_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden,
                   const QuantizeOptions& options, cudaStream_t stream) {
  if (rows == 0 || hidden == 0) return;
  if (chunks_are_aligned(x, hidden) && chunks_are_aligned(q, hidden)) {
    launch_quantize_rows<PlainRows, true>(q, scale, rows, hidden, options, stream, x, hidden);
  } else {
    launch_quantize_rows<PlainRows, false>(q, scale, rows, hidden, options, stream, x, hidden);
  }
}

void quantize_swiglu(float8_e4m3* q, float* scale, const GatedRows& x, int64_t rows, int64_t width,
                     const QuantizeOptions& options, cudaStream_t stream) {
  if (rows == 0 || width == 0) return;
  if (chunks_are_aligned(x.gate, x.ld) && chunks_are_aligned(x.up, x.ld) && chunks_are_aligned(q, width)) {
    launch_quantize_rows<SwigluRows, true>(q, scale, rows, width, options, stream, x);
  } else {
    launch_quantize_rows<SwigluRows, false>(q, scale, rows, width, options, stream, x);
  }
}

size_t quantize_permuted_rows_workspace_bytes(int64_t tokens, int64_t hidden, const QuantizeOptions& options) {
  if (options.layout == ScaleLayout::kRowMajor) return 0;
  return static_cast<size_t>(tokens * quantization_groups(hidden)) * sizeof(float);
}

void quantize_permuted_rows(float8_e4m3* q, float* scale, const bfloat16* x, const RowMap& map, int64_t hidden,
                            const QuantizeOptions& options, void* workspace, cudaStream_t stream) {
  if (map.rows == 0 || hidden == 0) return;
  const int64_t blocks = map.tokens + padding_blocks(map);
  DT_CHECK(blocks < (int64_t{1} << 31), "quantize_permuted_rows: {} tokens and {} rows are more than one launch holds",
           map.tokens, map.rows);
  const int64_t groups = quantization_groups(hidden);
  const int64_t wanted = (groups * kThreadsOfGroup + kWarp - 1) / kWarp * kWarp;
  const auto threads = static_cast<unsigned>(std::min<int64_t>(kMostPermutedThreads, wanted));
  const bool column_major = options.layout == ScaleLayout::kColumnMajor;
  float* token_scale = column_major ? static_cast<float*>(workspace) : nullptr;
  if (chunks_are_aligned(x, hidden) && chunks_are_aligned(q, hidden)) {
    quantize_permuted_rows_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(
        q, scale, token_scale, PlainRows<true>{x, hidden}, map, options.kind);
  } else {
    quantize_permuted_rows_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(
        q, scale, token_scale, PlainRows<false>{x, hidden}, map, options.kind);
  }
  check_launch("quantize_permuted_rows_kernel");
  if (!column_major) return;
  const dim3 tiles(static_cast<unsigned>((map.rows + kTile - 1) / kTile),
                   static_cast<unsigned>((groups + kTile - 1) / kTile));
  spread_scales_kernel<<<tiles, kSpreadThreads, 0, stream>>>(scale, token_scale, map, groups,
                                                             group_scale(0.0f, options.kind).scale);
  check_launch("spread_scales_kernel");
}

void quantize_whole_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden, ScaleKind kind,
                         cudaStream_t stream) {
  if (rows == 0 || hidden == 0) return;
  DT_CHECK(rows < (int64_t{1} << 31), "quantize_whole_rows: {} rows are more than one launch holds", rows);
  quantize_whole_rows_kernel<<<static_cast<unsigned>(rows), kWholeRowThreads, 0, stream>>>(
      q, scale, x, hidden, kind, chunks_are_aligned(x, hidden) && chunks_are_aligned(q, hidden));
  check_launch("quantize_whole_rows_kernel");
}

}  // namespace deeptitan::cuda

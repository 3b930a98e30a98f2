#include <algorithm>

#include "kernels/cuda/attention/latent_partials.cuh"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/attention/row_softmax.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kLatent = 512;
constexpr int kRope = 64;
constexpr int kWidth = kLatent + kRope;
constexpr int kStride = kWidth + 8;  // eight rows lie in different banks
constexpr int kHeads = 16;           // of a block
constexpr int kEntries = 64;         // of a tile
constexpr int kWeightStride = kEntries + 8;
constexpr int kEntryBytes = kEntries * kStride * 2;
constexpr int kQueryBytes = kHeads * kStride * 2;
constexpr int kSharedBytes = kEntryBytes + kQueryBytes + kHeads * kWeightStride * 2;

/// Most splits of a token's entries: so many that a batch of the class keeps all multiprocessors busy.
int64_t most_splits(int64_t tokens) {
  return tokens <= kFewLatentTokens ? kMostLatentSplits : tokens <= kBatchLatentTokens ? 4 : 1;
}
/// Tiles that a block goes over: so many that no cache makes more splits.
int64_t tiles_of_split(int64_t tokens, int64_t capacity) {
  const int64_t tiles = std::max<int64_t>(1, (capacity + kEntries - 1) / kEntries);
  return (tiles + most_splits(tokens) - 1) / most_splits(tokens);
}
int64_t splits_of(int64_t tokens, int64_t capacity) {
  const int64_t of_split = tiles_of_split(tokens, capacity) * kEntries;
  return std::max<int64_t>(1, (capacity + of_split - 1) / of_split);
}
int64_t workspace_floats(int64_t tokens, int64_t heads, int64_t latent_dim, int64_t capacity) {
  return tokens * splits_of(tokens, capacity) * heads * (latent_dim + 2);
}

/// Block (split, token, heads / 16).
__global__ void __launch_bounds__(kThreads) latent_tiles_kernel(LatentPartials partial, LatentRows<bfloat16> in) {
  extern __shared__ __align__(128) char shared[];
  __shared__ float part_max[kWarps][kHeads];
  __shared__ float part_sum[kWarps][kHeads];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t token = blockIdx.y;
  const int first_head = static_cast<int>(blockIdx.z) * kHeads;
  int64_t sequence = 0;
  const int64_t visible = visible_entries(in, token, sequence);
  const int64_t begin = blockIdx.x * partial.entries_of_split;
  let_next_launch_begin();
  if (begin >= visible) {  // who adds up does not look here
    wait_for_launch_before();
    return;
  }
  const int64_t end = min(begin + partial.entries_of_split, visible);
  const uint32_t entries = shared_address(shared);
  const uint32_t queries = entries + kEntryBytes;
  const uint32_t weights = queries + kQueryBytes;
  const int32_t* pages = in.page_table + sequence * in.page_table_stride;

  constexpr int kChunks = kWidth / 8;
  constexpr int kRowsOfWarp = kEntries / kWarps;
  // A warp fetches 16 entries, of which each lane finds one: divisions are slow.
  const auto page_size = static_cast<uint32_t>(in.page_size);
  const auto fetch_entries = [&](int64_t first) {
    const int64_t mine = first + warp * kRowsOfWarp + lane % kRowsOfWarp;
    const auto place = static_cast<uint32_t>(mine < end ? mine : first);
    const int64_t at = pages[place / page_size] * in.page_size + place % page_size;
#pragma unroll 4
    for (int chunk = lane; chunk < kRowsOfWarp * kChunks; chunk += kWarp) {
      const int row = chunk / kChunks, column = chunk % kChunks * 8;
      const int64_t entry = __shfl_sync(kAllLanes, at, row);
      copy_async(entries + 2 * ((warp * kRowsOfWarp + row) * kStride + column), in.cache + entry * kWidth + column,
                 first + warp * kRowsOfWarp + row < end);
    }
  };
  // Entries that this batch makes may be on their way still.
  const bool older = min(begin + kEntries, end) <= in.cached_length[sequence];
  if (older) fetch_entries(begin);
  wait_for_launch_before();
  if (!older) fetch_entries(begin);
  for (int chunk = threadIdx.x; chunk < kHeads * kChunks; chunk += kThreads) {
    const int head = chunk / kChunks, column = chunk % kChunks * 8;
    const bool inside = first_head + head < in.heads;
    const int64_t row = token * in.heads + (inside ? first_head + head : 0);
    copy_async(queries + 2 * (head * kStride + column), in.query + row * kWidth + column, inside);
  }
  float acc[kLatent / kWarps / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // of rows lane / 4 and 8 more, the same in all warps
  const float scale = in.scale * kLog2E;
  for (int64_t first = begin; first < end; first += kEntries) {
    if (first != begin) fetch_entries(first);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    // Each warp scores 16 of the entries.
    float s[2][4] = {};
#pragma unroll 4
    for (int k = 0; k < kWidth; k += 16) {
      uint32_t a[4], b[4];
      load_a<kStride>(a, queries, k, lane);
      load_b_of_rows<kStride>(b, entries, warp * 16, k, lane);
      mma_bf16(s[0], a, b[0], b[1]);
      mma_bf16(s[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const int64_t entry = first + warp * 16 + n * 8 + lane % 4 * 2 + i % 2;
          s[n][i] = entry < end ? s[n][i] * scale : -INFINITY;
          largest = fmaxf(largest, s[n][i]);
        }
      }
      largest = quad_max(largest);
      if (lane % 4 == 0) part_max[warp][lane / 4 + 8 * half] = largest;
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
      float new_max = max[half];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) new_max = fmaxf(new_max, part_max[w][row]);
      const float correction = exp2f(max[half] - new_max);  // the first entry of a tile is seen: new_max is finite
      max[half] = new_max;
      float total = 0;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float left = exp2f(s[n][2 * half] - new_max), right = exp2f(s[n][2 * half + 1] - new_max);
        total += left + right;
        const uint32_t at = weights + 2 * (row * kWeightStride + warp * 16 + n * 8 + lane % 4 * 2);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pack_bf16(left, right)) : "memory");
      }
      total = quad_sum(total);
      if (lane % 4 == 0) part_sum[warp][row] = total;
      sum[half] *= correction;
#pragma unroll
      for (int n = 0; n < kLatent / kWarps / 8; ++n) {
        acc[n][2 * half] *= correction;
        acc[n][2 * half + 1] *= correction;
      }
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum[half] += part_sum[w][lane / 4 + 8 * half];
    }
    // Each warp adds up a quarter of the latents' columns.
#pragma unroll
    for (int k = 0; k < kEntries; k += 16) {
      uint32_t a[4];
      load_a<kWeightStride>(a, weights, k, lane);
#pragma unroll
      for (int n = 0; n < kLatent / kWarps / 8; n += 2) {
        uint32_t b[4];
        load_b<kStride>(b, entries, warp * (kLatent / kWarps) + n * 8, k, lane);
        mma_bf16(acc[n], a, b[0], b[1]);
        mma_bf16(acc[n + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = first_head + lane / 4 + 8 * half;
    if (head >= in.heads) continue;
    const int64_t at = (token * gridDim.x + blockIdx.x) * in.heads + head;
    if (warp == 0 && lane % 4 == 0) {
      partial.statistics[2 * at] = max[half];
      partial.statistics[2 * at + 1] = sum[half];
    }
    float* row = partial.latents + at * kLatent + warp * (kLatent / kWarps) + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kLatent / kWarps / 8; ++n) {
      *reinterpret_cast<float2*>(row + n * 8) = make_float2(acc[n][2 * half], acc[n][2 * half + 1]);
    }
  }
}

/// Block (head, token): the splits in their order.
__global__ void __launch_bounds__(kThreads)
    add_splits_kernel(bfloat16* out, LatentPartials partial, LatentRows<bfloat16> in) {
  const int64_t head = blockIdx.x, token = blockIdx.y;
  int64_t sequence = 0;
  const int64_t visible = visible_entries(in, token, sequence);
  const auto of_split = static_cast<uint32_t>(partial.entries_of_split);
  const int64_t splits = (static_cast<uint32_t>(visible) + of_split - 1) / of_split;
  const auto place = [&](int64_t split) { return (token * partial.splits + split) * in.heads + head; };
  float max = -INFINITY;
  for (int64_t split = 0; split < splits; ++split) {
    const float of_split = partial.statistics[2 * place(split)];
    max = of_split > max || of_split != of_split ? of_split : max;
  }
  float total = 0;
  float sums[kLatent / kThreads] = {};
  for (int64_t split = 0; split < splits; ++split) {
    const float factor = exp2f(partial.statistics[2 * place(split)] - max);
    total += factor * partial.statistics[2 * place(split) + 1];
#pragma unroll
    for (int i = 0; i < kLatent / kThreads; ++i) {
      sums[i] += factor * partial.latents[place(split) * kLatent + threadIdx.x + i * kThreads];
    }
  }
#pragma unroll
  for (int i = 0; i < kLatent / kThreads; ++i) {
    store_rounded(out + (token * in.heads + head) * kLatent + threadIdx.x + i * kThreads,
                  visible > 0 ? sums[i] / total : 0.0f);
  }
}

}  // namespace

bool latent_tiles_fit(const LatentRows<bfloat16>& in) {
  static const int most_shared = [] {
    int device = 0, bytes = 0;
    const bool asked = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
    if (!asked) (void)cudaGetLastError();  // a plan for a GPU that is not here
    return bytes;
  }();
  return in.latent_dim == kLatent && in.rope_dim == kRope && in.visible == nullptr && kSharedBytes <= most_shared;
}

int64_t latent_tiles_workspace(int64_t tokens, int64_t heads, int64_t latent_dim, int64_t capacity) {
  // What fewer tokens take, in more splits, is not more than planned for many.
  int64_t floats = 0;
  for (const int64_t most : {kFewLatentTokens, kBatchLatentTokens, tokens}) {
    floats = std::max(floats, workspace_floats(std::min(tokens, most), heads, latent_dim, capacity));
  }
  return floats;
}

LatentPartials add_up_tiles(const LatentRows<bfloat16>& in, int64_t capacity, float* workspace, cudaStream_t stream) {
  const int64_t splits = splits_of(in.tokens, capacity);
  const LatentPartials partial{.latents = workspace,
                               .statistics = workspace + in.tokens * splits * in.heads * kLatent,
                               .splits = splits,
                               .entries_of_split = tiles_of_split(in.tokens, capacity) * kEntries};
  DT_CUDA_CHECK(cudaFuncSetAttribute(latent_tiles_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(in.tokens),
                  static_cast<unsigned>((in.heads + kHeads - 1) / kHeads));
  if (in.tokens <= kFewLatentTokens) {
    launch_dependent(latent_tiles_kernel, "latent_tiles_kernel", grid, kThreads, kSharedBytes, stream, partial, in);
  } else {
    latent_tiles_kernel<<<grid, kThreads, kSharedBytes, stream>>>(partial, in);
    check_launch("latent_tiles_kernel");
  }
  return partial;
}

void add_splits(bfloat16* out, const LatentPartials& partial, const LatentRows<bfloat16>& in, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(in.heads), static_cast<unsigned>(in.tokens));
  add_splits_kernel<<<grid, kThreads, 0, stream>>>(out, partial, in);
  check_launch("add_splits_kernel");
}

void latent_attention_by_tiles(bfloat16* out, const LatentRows<bfloat16>& in, int64_t capacity, float* workspace,
                               cudaStream_t stream) {
  if (in.tokens <= 0 || in.heads <= 0) return;
  add_splits(out, add_up_tiles(in, capacity, workspace, stream), in, stream);
}

}  // namespace deeptitan::cuda

// A block takes 64 heads of a token, the rows of its products, and goes over the token's entries, or a split of them,
// in tiles of 64. The sums of 64 x 512 fill two warpgroups' registers, which is why a third scores:
//
//   scores   S = Q K^T of tile j + 1            | P = exp2(S * scale - max), into shared memory
//   left     O[:, :256] += P V of tile j        |
//   right                                       | O[:, 256:] += P V of tile j
//
// so that the tensor cores always have one of the three products to do. Keys and values are the same entries, brought
// by the TMA once; most of Q lies in the scoring warpgroup's registers, which leaves shared memory for two and a half
// tiles and its bandwidth for reading them.

#include "kernels/cuda/attention/sm90_latent_attention.h"

#include <algorithm>
#include <numeric>

#include "kernels/cuda/attention/sm90_latent_attention_compute.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/tensor_map.h"

namespace deeptitan::cuda {
namespace sm90::latent_attention {

// A warpgroup waits for registers that another has given back: what all ask for must be what the launch has.
constexpr int kProducerRegisters = 32;
constexpr int kScoreRegisters = 160;
constexpr int kSumRegisters = 160;
static_assert(kProducerRegisters + kScoreRegisters + 2 * kSumRegisters <= 4 * (65536 / kThreads));

/// Block (heads / 64, split, token).
__global__ void __launch_bounds__(kThreads, 1) sm90_latent_attention_kernel(const __grid_constant__ Parameters p) {
  extern __shared__ char dynamic[];
  __shared__ __align__(8) Barriers barriers;
  __shared__ Factors factors;
  const Shared shared{(shared_address(dynamic) + 1023) / 1024 * 1024, shared_address(&barriers)};
  if (threadIdx.x == 0) {
    mbarrier_init(shared.query_full(), 1);
    for (int i = 0; i < kHalves; ++i) {
      mbarrier_init(shared.half_full(i), 1);
      mbarrier_init(shared.half_empty(i), 4);
    }
    for (int i = 0; i < kRopes; ++i) {
      mbarrier_init(shared.rope_full(i), 1);
      mbarrier_init(shared.rope_empty(i), 4);
    }
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(shared.weights_full(i), kWarpgroup);
      mbarrier_init(shared.weights_empty(i), 2 * kWarpgroup);
      mbarrier_init(shared.scored(i), 4);
    }
    mbarrier_init(shared.sum_full(), kWarpgroup);
    mbarrier_init_fence();
  }
  let_next_launch_begin();
  wait_for_launch_before();
  __syncthreads();
  int64_t sequence = 0;
  const int64_t visible = visible_entries(p.in, blockIdx.z, sequence);
  const int64_t first = blockIdx.y * p.partial.entries_of_split;
  const int64_t entries = min(p.partial.entries_of_split, max(visible - first, int64_t{0}));
  const Work work{static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.x) * kHeads, static_cast<int>(first),
                  static_cast<int>(entries), p.in.page_table + sequence * p.in.page_table_stride};
  if (entries == 0) {  // who adds up splits does not look here
    if (p.out == nullptr) return;
    const int64_t rows = min(int64_t{kHeads}, p.in.heads - work.first_head);
    auto* to = reinterpret_cast<uint4*>(p.out + (work.token * p.in.heads + work.first_head) * kLatent);
    for (int i = threadIdx.x; i < rows * (kLatent / 8); i += kThreads) to[i] = make_uint4(0, 0, 0, 0);
    return;
  }
  const int warpgroup = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (warpgroup == 0) {
    decrease_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce(p, shared, work);
  } else if (warpgroup == 1) {
    increase_registers<kScoreRegisters>();
    score(p, shared, factors, work);
  } else {
    increase_registers<kSumRegisters>();
    add_up(p, shared, factors, work, warpgroup - 2);
  }
}

}  // namespace sm90::latent_attention

namespace {

namespace own = sm90::latent_attention;

// With fewer heads most rows of a block are nobody's. Where tokens are many, entries are read as fast as memory gives
// them all the same.
constexpr int64_t kLeastHeads = 48;
constexpr int64_t kLeastHeadsOfMany = 16;
constexpr int64_t kManyTokens = 65;
constexpr int64_t kMostEntries = int64_t{1}
                                 << 29;  // of a cache, more than memory holds: a map covers less than 2^40 bytes

/// Classes of batches, by their most tokens, and most splits of a token's entries: so many that a batch of the class
/// keeps all multiprocessors busy.
struct Class {
  int64_t tokens;
  int64_t splits;
};
constexpr Class kClasses[] = {{16, 16}, {32, 4}, {64, 2}};

int64_t most_splits(int64_t tokens) {
  for (const Class& one : kClasses) {
    if (tokens <= one.tokens) return one.splits;
  }
  return 1;
}
/// A multiple of a tile.
int64_t entries_of_split(int64_t tokens, int64_t capacity) {
  const int64_t tiles = std::max<int64_t>(1, (capacity + own::kEntries - 1) / own::kEntries);
  return (tiles + most_splits(tokens) - 1) / most_splits(tokens) * own::kEntries;
}
int64_t splits_of(int64_t tokens, int64_t capacity) {
  const int64_t of_split = entries_of_split(tokens, capacity);
  return std::max<int64_t>(1, (capacity + of_split - 1) / of_split);
}
int64_t workspace_floats(int64_t tokens, int64_t heads, int64_t capacity) {
  return tokens * splits_of(tokens, capacity) * heads * (own::kLatent + 2);
}

/// Rows of a page that one box takes.
int box_rows(int64_t page_size) {
  return static_cast<int>(std::gcd(page_size, int64_t{own::kEntries}));
}

/// out: null for partials.
LatentPartials launch(bfloat16* out, const LatentRows<bfloat16>& in, int64_t capacity, float* workspace,
                      cudaStream_t stream) {
  const int64_t splits = splits_of(in.tokens, capacity);
  const LatentPartials partial{.latents = workspace,
                               .statistics = workspace + in.tokens * splits * in.heads * own::kLatent,
                               .splits = splits,
                               .entries_of_split = entries_of_split(in.tokens, capacity)};
  const auto map = [&](const bfloat16* data, int64_t rows, int box) {
    return make_tensor_map(data, {.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                  .element_bytes = 2,
                                  .width = own::kWidth,
                                  .height = rows,
                                  .depth = 1,
                                  .row_stride = own::kWidth,
                                  .box_width = 64,
                                  .box_height = box,
                                  .swizzled = true});
  };
  const own::Parameters parameters{.query = map(in.query, in.tokens * in.heads, own::kHeads),
                                   .cache = map(in.cache, kMostEntries, box_rows(in.page_size)),
                                   .in = in,
                                   .partial = partial,
                                   .out = out,
                                   .box_rows = box_rows(in.page_size)};
  const dim3 grid(static_cast<unsigned>((in.heads + own::kHeads - 1) / own::kHeads), static_cast<unsigned>(splits),
                  static_cast<unsigned>(in.tokens));
  static const bool allowed = [] {
    DT_CUDA_CHECK(cudaFuncSetAttribute(own::sm90_latent_attention_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       own::kSharedBytes));
    return true;
  }();
  static_cast<void>(allowed);
  launch_dependent(own::sm90_latent_attention_kernel, "sm90_latent_attention_kernel", grid, own::kThreads,
                   own::kSharedBytes, stream, parameters);
  return partial;
}

}  // namespace

bool sm90_latent_attention_fits(const LatentRows<bfloat16>& in) {
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return in.latent_dim == own::kLatent && in.rope_dim == own::kRope && in.visible == nullptr &&
         in.heads >= (in.tokens < kManyTokens ? kLeastHeads : kLeastHeadsOfMany) && box_rows(in.page_size) >= 8 &&
         aligned(in.query) && aligned(in.cache);
}

int64_t sm90_latent_attention_workspace(int64_t tokens, int64_t heads, int64_t capacity) {
  if (heads < kLeastHeadsOfMany) return 0;
  // What fewer tokens take, split, is not more than planned for many.
  int64_t most = workspace_floats(tokens, heads, capacity);
  for (const Class& one : kClasses) {
    most = std::max(most, workspace_floats(std::min(one.tokens, tokens), heads, capacity));
  }
  return most;
}

LatentPartials sm90_add_up_entries(const LatentRows<bfloat16>& in, int64_t capacity, float* workspace,
                                   cudaStream_t stream) {
  return launch(nullptr, in, capacity, workspace, stream);
}

void sm90_latent_attention(bfloat16* out, const LatentRows<bfloat16>& in, int64_t capacity, float* workspace,
                           cudaStream_t stream) {
  if (in.tokens <= 0 || in.heads <= 0) return;
  const bool split = splits_of(in.tokens, capacity) > 1;
  const LatentPartials partial = launch(split ? nullptr : out, in, capacity, workspace, stream);
  if (split) add_splits(out, partial, in, stream);
}

}  // namespace deeptitan::cuda

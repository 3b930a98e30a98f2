// The loss of rows that a cluster's shared memory holds.
//
// A cluster of kCluster blocks takes a row, each block a slice, which the TMA brings to shared memory: the row is read
// from memory once, where two passes of a block would read it twice, for the rows of all blocks at once are more than
// the second-level cache has. Four blocks of different rows share a multiprocessor, so that one's loads and stores go
// on beside another's exponentials. A thread takes each exponential once, relative to its own largest logit, and keeps
// it in place of the logit; what the row's largest makes of that is one factor a thread.

#include "kernels/cpu/loss/cross_entropy.h"

#include "kernels/cuda/error.h"
#include "kernels/cuda/loss/sm90_cross_entropy.h"
#include "kernels/cuda/sm90_primitives.cuh"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksAtOnce = 4;  // of a multiprocessor
constexpr int kCluster = 8;
constexpr int64_t kFewestColumns = 1 << 15;
constexpr int64_t kMostColumns = int64_t{kCluster} * (200 << 10) / 4;

/// Of a block's slice, or of a row: its largest logit, and the sum of exp(logit - largest).
struct Part {
  float largest;
  float sum;
};

/// Writes a part to where this block has it, in block `rank` of the cluster.
__device__ void store_in_block(Part* to, uint32_t rank, const Part& part) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v2.f32 [remote], {%2, %3};\n"
      "}" ::"r"(shared_address(to)),
      "r"(rank), "f"(part.largest), "f"(part.sum)
      : "memory");
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    cross_entropy_of_held_rows_kernel(const CrossEntropyRows<T> rows, int slice) {
  extern __shared__ __align__(16) float4 held[];
  __shared__ float shared[kThreads / kWarp];
  __shared__ __align__(8) Part parts[kCluster];
  __shared__ __align__(8) uint64_t loaded;
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t rank = cluster_rank();
  const int64_t r = blockIdx.x / kCluster;
  const int64_t begin = static_cast<int64_t>(rank) * slice;
  const int columns = static_cast<int>(max(int64_t{0}, min(rows.vocab - begin, int64_t{slice})));
  const int words = columns / kVector;
  T* d_row = rows.d_logits == nullptr ? nullptr : rows.d_logits + r * rows.ld_d_logits + begin;

  const int32_t target = rows.targets[r];
  if (target == cpu::kIgnoredTarget) {  // the whole cluster leaves
    if (rank == 0 && thread == 0) rows.loss[r] = 0.0f;
    for (int i = thread; d_row != nullptr && i < words; i += kThreads) {
      store_floats(d_row + i * kVector, Floats<kVector>{});
    }
    return;
  }

  const uint32_t barrier = shared_address(&loaded);
  if (thread == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(barrier, columns * sizeof(float));
    if (columns > 0) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(held)),
                   "l"(__cvta_generic_to_global(rows.logits + r * rows.ld_logits + begin)),
                   "r"(static_cast<uint32_t>(columns * sizeof(float))), "r"(barrier)
                   : "memory");
    }
  }
  // No block writes into another's shared memory before that one runs.
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  __syncthreads();
  mbarrier_wait(barrier, 0);

  float largest = -INFINITY;  // fmaxf passes over NaNs, which the sum has
  for (int i = thread; i < words; i += kThreads) {
    const float4 x = held[i];
    largest = fmaxf(fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)), largest);
  }
  const int64_t of_target = target - begin;
  const bool has_target = 0 <= of_target && of_target < columns;
  const float target_logit = has_target ? reinterpret_cast<const float*>(held)[of_target] : 0.0f;
  __syncthreads();  // the target's logit is read
  const float base = largest == -INFINITY ? 0.0f : largest;
  float sum = 0;
  for (int i = thread; i < words; i += kThreads) {
    float4 x = held[i];
    x.x = expf(x.x - base);
    x.y = expf(x.y - base);
    x.z = expf(x.z - base);
    x.w = expf(x.w - base);
    sum += (x.x + x.y) + (x.z + x.w);
    held[i] = x;
  }
  const float of_block = block_reduce<kThreads>(largest, shared, [](float a, float b) { return fmaxf(a, b); });
  // A thread without a finite logit has zeros, or what is not finite and stays so.
  const float block_total = block_sum<kThreads>(largest == -INFINITY ? sum : sum * expf(base - of_block), shared);

  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  if (thread < kCluster) store_in_block(&parts[rank], thread, {of_block, block_total});
  cluster_sync();
  Part row{-INFINITY, 0};
#pragma unroll
  for (const Part& part : parts) row.largest = fmaxf(row.largest, part.largest);
#pragma unroll
  for (const Part& part : parts) {
    row.sum += part.largest == -INFINITY ? part.sum : part.sum * expf(part.largest - row.largest);
  }
  if (thread == 0 && has_target) {
    rows.loss[r] = static_cast<float>(log(static_cast<double>(row.sum))) + (row.largest - target_logit);
  }
  if (thread == 0 && rank == 0 && (target < 0 || target >= rows.vocab)) rows.loss[r] = NAN;
  if (d_row == nullptr) return;
  const auto scale = static_cast<float>(*rows.grad_scale);
  const float to_probability = (largest == -INFINITY ? 1.0f : expf(base - row.largest)) / row.sum;
  const float factor = to_probability * scale;
  for (int i = thread; i < words; i += kThreads) {
    const float4 x = held[i];
    store_floats(d_row + i * kVector, Floats<kVector>{{x.x * factor, x.y * factor, x.z * factor, x.w * factor}});
    if (has_target && i == of_target / kVector) {
      // Taken from the float probability, not from its rounding: a probability near 1 leaves little.
      const float probability = reinterpret_cast<const float*>(held)[of_target] * to_probability;
      store_rounded(d_row + of_target, (probability - 1.0f) * scale);
    }
  }
}

bool is_hopper() {
  static const bool is = [] {
    int device = 0, major = 0;
    DT_CUDA_CHECK(cudaGetDevice(&device));
    DT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major == 9;
  }();
  return is;
}

}  // namespace

template <typename T>
bool can_hold_rows(const CrossEntropyRows<T>& r) {
  const bool words = r.vocab % kVector == 0 && reinterpret_cast<uintptr_t>(r.logits) % 16 == 0 &&
                     takes_vectors(r.logits, r.ld_logits) &&
                     (r.d_logits == nullptr || takes_vectors(r.d_logits, r.ld_d_logits));
  return words && kFewestColumns <= r.vocab && r.vocab <= kMostColumns && is_hopper();
}

template <typename T>
void cross_entropy_of_held_rows(const CrossEntropyRows<T>& r, cudaStream_t stream) {
  if (r.rows <= 0) return;
  const auto slice = static_cast<int>((r.vocab / kVector + kCluster - 1) / kCluster * kVector);
  const int shared_bytes = slice * static_cast<int>(sizeof(float));
  const auto kernel = cross_entropy_of_held_rows_kernel<T>;
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(r.rows * kCluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  DT_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, r, slice));
  check_launch("cross_entropy_of_held_rows_kernel");
}

template bool can_hold_rows(const CrossEntropyRows<float>&);
template bool can_hold_rows(const CrossEntropyRows<bfloat16>&);
template void cross_entropy_of_held_rows(const CrossEntropyRows<float>&, cudaStream_t);
template void cross_entropy_of_held_rows(const CrossEntropyRows<bfloat16>&, cudaStream_t);

}  // namespace deeptitan::cuda::sm90

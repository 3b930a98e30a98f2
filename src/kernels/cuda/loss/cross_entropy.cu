#include "kernels/cpu/loss/cross_entropy.h"

#include "kernels/cuda/error.h"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/loss/cross_entropy.h"
#include "kernels/cuda/loss/sm90_cross_entropy.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int32_t kIgnored = cpu::kIgnoredTarget;

/// The largest logit, NaNs left out, and the sum of exp(logit - largest), which is NaN where a logit is; each is read
/// once.
struct RowSum {
  float max = -INFINITY;
  float sum = 0;

  template <int kCount>
  __device__ void add(const float (&x)[kCount]) {
    float largest = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) largest = fmaxf(largest, x[i]);
    const float base = largest == -INFINITY ? 0.0f : largest;
    if (largest != max) sum *= expf(max - base);
    max = largest;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum += expf(x[i] - base);
  }
};

/// Of the whole block, from its threads' parts.
template <int kBlock>
__device__ RowSum sum_of_block(const RowSum& part, float* shared) {
  const float max = block_reduce<kBlock>(part.max, shared, [](float a, float b) { return fmaxf(a, b); });
  return {max, block_sum<kBlock>(part.max == -INFINITY ? part.sum : part.sum * expf(part.max - max), shared)};
}

__device__ RowSum sum_row(const float* row, int64_t vocab, float* shared) {
  RowSum part;
  const bool vectors = reinterpret_cast<uintptr_t>(row) % (kVector * sizeof(float)) == 0;
  const int64_t in_vectors = vectors ? vocab / kVector * kVector : 0;
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * kVector; v < in_vectors; v += kThreads * kVector) {
    part.add(load_floats<kVector>(row + v).at);
  }
  for (int64_t v = in_vectors + threadIdx.x; v < vocab; v += kThreads) part.add(load_floats<1>(row + v).at);
  return sum_of_block<kThreads>(part, shared);
}

/// A block a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    softmax_cross_entropy_kernel(float* loss, T* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                                 const int32_t* targets, const double* grad_scale, int64_t vocab) {
  __shared__ float shared[kWarps];
  const int64_t r = blockIdx.x;
  const int32_t target = targets[r];
  T* d_row = d_logits == nullptr ? nullptr : d_logits + r * ld_d_logits;
  if (target == kIgnored) {
    if (threadIdx.x == 0) loss[r] = 0.0f;
    for (int64_t v = threadIdx.x; d_row != nullptr && v < vocab; v += kThreads) store_rounded(d_row + v, 0.0f);
    return;
  }
  const float* row = logits + r * ld_logits;
  const bool known = 0 <= target && target < vocab;
  const float target_logit = known ? row[target] : NAN;
  const RowSum s = sum_row(row, vocab, shared);  // its barriers stand before any write to d_row, which may be row
  if (threadIdx.x == 0) loss[r] = static_cast<float>(log(static_cast<double>(s.sum))) + (s.max - target_logit);
  if (d_row == nullptr) return;
  const auto scale = static_cast<float>(*grad_scale);
  const float factor = scale / s.sum;
  const auto gradient = [&](int64_t v, float logit) {
    const float e = expf(logit - s.max);
    // Taken from the float probability, not from its rounding: a probability near 1 leaves little.
    return v == target ? (e / s.sum - 1.0f) * scale : e * factor;
  };
  const bool vectors = reinterpret_cast<uintptr_t>(row) % (kVector * sizeof(float)) == 0 &&
                       reinterpret_cast<uintptr_t>(d_row) % (kVector * sizeof(T)) == 0;
  const int64_t in_vectors = vectors ? vocab / kVector * kVector : 0;
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * kVector; v < in_vectors; v += kThreads * kVector) {
    Floats<kVector> x = load_floats<kVector>(row + v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x.at[i] = gradient(v + i, x.at[i]);
    store_floats(d_row + v, x);
  }
  for (int64_t v = in_vectors + threadIdx.x; v < vocab; v += kThreads) store_rounded(d_row + v, gradient(v, row[v]));
}

template <typename T>
void launch_cross_entropy(float* loss, T* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                          const int32_t* targets, const double* grad_scale, int64_t rows, int64_t vocab,
                          cudaStream_t stream) {
  if (rows <= 0) return;
  const sm90::CrossEntropyRows<T> held{loss,    d_logits,   ld_d_logits, logits, ld_logits,
                                       targets, grad_scale, rows,        vocab};
  if (!plain_kernels_wanted() && sm90::can_hold_rows(held)) return sm90::cross_entropy_of_held_rows(held, stream);
  softmax_cross_entropy_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      loss, d_logits, ld_d_logits, logits, ld_logits, targets, grad_scale, vocab);
  check_launch("softmax_cross_entropy_kernel");
}

/// A block a row.
__global__ void __launch_bounds__(kThreads)
    token_logprobs_kernel(float* logprob, int32_t* argmax, const float* logits, int64_t ld_logits,
                          const int32_t* targets, int64_t vocab) {
  __shared__ float shared[kWarps];
  __shared__ int32_t shared_index[kWarps];
  const int64_t r = blockIdx.x;
  const float* row = logits + r * ld_logits;
  const int32_t target = targets[r];
  const RowSum s = sum_row(row, vocab, shared);
  if (argmax != nullptr) {
    int32_t lowest = static_cast<int32_t>(vocab);
    for (int64_t v = threadIdx.x; v < vocab; v += kThreads) {
      if (row[v] == s.max) {
        lowest = static_cast<int32_t>(v);
        break;
      }
    }
    lowest = block_reduce<kThreads>(lowest, shared_index, [](int32_t a, int32_t b) { return a < b ? a : b; });
    if (threadIdx.x == 0) argmax[r] = lowest < vocab && s.sum == s.sum ? lowest : 0;  // a NaN has no order
  }
  if (threadIdx.x != 0) return;
  if (target == kIgnored) {
    logprob[r] = 0.0f;
  } else {
    const float logit = 0 <= target && target < vocab ? row[target] : NAN;
    logprob[r] = (logit - s.max) - static_cast<float>(log(static_cast<double>(s.sum)));
  }
}

constexpr int kSumThreads = 512;

/// partial[b] = the sum over the b-th part of x: a thread has four sums, of every fourth element of its words of four.
/// kWords: these are whole words.
template <bool kSquared, bool kWords>
__global__ void __launch_bounds__(kSumThreads) sum_parts_kernel(double* partial, const float* x, int64_t n) {
  __shared__ double shared[kSumThreads / kWarp];
  const int64_t part = (n + kVector * gridDim.x - 1) / (kVector * gridDim.x) * kVector;
  const int64_t begin = blockIdx.x * part;
  const int64_t end = begin + part < n ? begin + part : n;
  double sum[kVector] = {};
#pragma unroll 4
  for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * kVector; i < end; i += kSumThreads * kVector) {
    Floats<kVector> word{};
    if (kWords && i + kVector <= end) {
      word = load_floats<kVector>(x + i);
    } else {
#pragma unroll
      for (int j = 0; j < kVector; ++j) word.at[j] = i + j < end ? x[i + j] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const double value = word.at[j];
      sum[j] += kSquared ? value * value : value;
    }
  }
  const double total = block_sum<kSumThreads>((sum[0] + sum[1]) + (sum[2] + sum[3]), shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

static_assert(kSumWorkspace == kThreads, "a thread a part");
__global__ void __launch_bounds__(kThreads) add_parts_kernel(double* sum, const double* partial) {
  __shared__ double shared[kWarps];
  const double total = block_sum<kThreads>(partial[threadIdx.x], shared);
  if (threadIdx.x == 0) *sum += total;
}

template <bool kSquared>
void launch_sum_parts(double* partial, const float* x, int64_t n, cudaStream_t stream) {
  const auto kernel = takes_vectors(x, 0) ? sum_parts_kernel<kSquared, true> : sum_parts_kernel<kSquared, false>;
  kernel<<<static_cast<unsigned>(kSumWorkspace), kSumThreads, 0, stream>>>(partial, x, n);
  check_launch("sum_parts_kernel");
}

}  // namespace

void softmax_cross_entropy(float* loss, float* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, const double* grad_scale, int64_t rows, int64_t vocab,
                           cudaStream_t stream) {
  launch_cross_entropy(loss, d_logits, ld_d_logits, logits, ld_logits, targets, grad_scale, rows, vocab, stream);
}
void softmax_cross_entropy(float* loss, bfloat16* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, const double* grad_scale, int64_t rows, int64_t vocab,
                           cudaStream_t stream) {
  launch_cross_entropy(loss, d_logits, ld_d_logits, logits, ld_logits, targets, grad_scale, rows, vocab, stream);
}

void token_logprobs(float* logprob, int32_t* argmax, const float* logits, int64_t ld_logits, const int32_t* targets,
                    int64_t rows, int64_t vocab, cudaStream_t stream) {
  if (rows <= 0) return;
  token_logprobs_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(logprob, argmax, logits, ld_logits,
                                                                              targets, vocab);
  check_launch("token_logprobs_kernel");
}

void add_sum_fixed_order(double* sum, const float* x, int64_t n, double* workspace, cudaStream_t stream) {
  launch_sum_parts<false>(workspace, x, n, stream);
  add_parts_kernel<<<1, kThreads, 0, stream>>>(sum, workspace);
  check_launch("add_parts_kernel");
}

void square_sums(double* sums, const float* x, int64_t n, cudaStream_t stream) {
  launch_sum_parts<true>(sums, x, n, stream);
}

}  // namespace deeptitan::cuda

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/optimizer/step_state.h"
#include "kernels/square_blocks.h"
#include "kernels/step_math.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
static_assert(kSquareBlocks == kThreads, "a thread a block of a parameter");

__global__ void begin_step_output_kernel(StepState* state) {
  begin_output(state->out);
}

/// The sum of `count` numbers in their order; the whole block, which reads them a block's width at a time.
__device__ double sum_in_order(const double* numbers, int64_t stride, int64_t count) {
  __shared__ double part[kThreads];
  double total = 0;
  for (int64_t first = 0; first < count; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    part[threadIdx.x] = i < count ? numbers[i * stride] : 0.0;
    __syncthreads();
    const int here = static_cast<int>(count - first < kThreads ? count - first : kThreads);
    if (threadIdx.x == 0) {
      for (int j = 0; j < here; ++j) total = __dadd_rn(total, part[j]);
    }
    __syncthreads();
  }
  return total;
}

/// A block a parameter: the sum of its blocks goes where its first one was.
__global__ void __launch_bounds__(kThreads) sum_parameters_kernel(double* sums) {
  double* of_parameter = sums + static_cast<int64_t>(blockIdx.x) * kThreads;
  const double total = sum_in_order(of_parameter, 1, kThreads);
  if (threadIdx.x == 0) *of_parameter = total;
}

__global__ void __launch_bounds__(kThreads)
    decide_step_kernel(StepState* state, const double* sums, int64_t parameters, double max_norm, bool halt) {
  const double squares = sum_in_order(sums, kThreads, parameters);
  if (threadIdx.x != 0) return;
  state->out.gradient_squares = squares;
  decide_step(*state, max_norm, halt);
}

}  // namespace

void begin_step_output(StepState* state, cudaStream_t stream) {
  begin_step_output_kernel<<<1, 1, 0, stream>>>(state);
  check_launch("begin_step_output_kernel");
}

void finish_gradient(StepState* state, double* sums, int64_t parameters, double max_norm, bool halt,
                     cudaStream_t stream) {
  if (parameters > 0) {
    sum_parameters_kernel<<<static_cast<unsigned>(parameters), kThreads, 0, stream>>>(sums);
    check_launch("sum_parameters_kernel");
  }
  decide_step_kernel<<<1, kThreads, 0, stream>>>(state, sums, parameters, max_norm, halt);
  check_launch("decide_step_kernel");
}

}  // namespace deeptitan::cuda

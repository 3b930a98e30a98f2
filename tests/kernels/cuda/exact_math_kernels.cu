#include "kernels/cuda/error.h"
#include "kernels/cuda/exact_math_kernels.h"
#include "kernels/exact_math.h"

namespace deeptitan::cuda {

namespace {

template <typename Function>
__global__ void map_bits_kernel(float* out, uint32_t first, uint32_t step, int64_t count, Function function) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = function(float_from_bits(first + static_cast<uint32_t>(i) * step));
}

template <typename Function>
void map_bits(float* out, uint32_t first, uint32_t step, int64_t count, Function function) {
  map_bits_kernel<<<static_cast<unsigned>((count + 255) / 256), 256>>>(out, first, step, count, function);
  check_launch("map_bits_kernel");
}

struct ExpOfNonpositive {
  __device__ float operator()(float x) const { return exact_exp_of_nonpositive(x); }
};
struct Sigmoid {
  __device__ float operator()(float x) const { return exact_sigmoid(x); }
};

__global__ void count_reciprocal_mismatches_kernel(uint32_t* mismatches, int exponent) {
  const uint32_t mantissa = blockIdx.x * blockDim.x + threadIdx.x;
  const float x = float_from_bits(static_cast<uint32_t>(127 + exponent) << 23 | mantissa);
  if (exact_reciprocal_of_normal(x) != __frcp_rn(x)) atomicAdd(mismatches, 1u);
}

}  // namespace

void exp_of_nonpositive_of_bits(float* out, uint32_t first, uint32_t step, int64_t count) {
  map_bits(out, first, step, count, ExpOfNonpositive{});
}
void sigmoid_of_bits(float* out, uint32_t first, uint32_t step, int64_t count) {
  map_bits(out, first, step, count, Sigmoid{});
}

void count_reciprocal_mismatches(uint32_t* mismatches, int exponent) {
  count_reciprocal_mismatches_kernel<<<(1u << 23) / 256, 256>>>(mismatches, exponent);
  check_launch("count_reciprocal_mismatches_kernel");
}

}  // namespace deeptitan::cuda

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/optimizer/adamw.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

/// What the update needs of the options: the same for every element.
struct Options {
  double beta1;
  double beta2;
  double weight_decay;
  float epsilon;
};

/// Every factor is computed in double and rounded once. The device's pow may differ from the host's in the last place
/// of a double, which rounding to float removes.
struct Factors {
  float scale;
  float decay;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float correction2_root;
  float minus_step_size;
};

__device__ Factors factors_of(const StepState& state, const Options& o) {
  const double learning_rate = state.in.learning_rate;
  const auto updates = static_cast<double>(state.out.updates);
  return {.scale = state.out.clip,
          .decay = static_cast<float>(1.0 - __dmul_rn(learning_rate, o.weight_decay)),
          .one_minus_beta1 = static_cast<float>(1.0 - o.beta1),
          .beta2 = static_cast<float>(o.beta2),
          .one_minus_beta2 = static_cast<float>(1.0 - o.beta2),
          .correction2_root = static_cast<float>(sqrt(1.0 - pow(o.beta2, updates))),
          .minus_step_size = static_cast<float>(-(learning_rate / (1.0 - pow(o.beta1, updates))))};
}

struct Moments {
  float m;
  float v;
};

/// Updates an element of the parameter. Returns the new moments.
__device__ Moments update_element(float* parameter, float gradient, const Moments& old, const Factors& f,
                                  const Options& o) {
  const float g = exact_mul(gradient, f.scale);
  const float m = exact_fma(f.one_minus_beta1, exact_add(g, -old.m), old.m);
  const float v = exact_add(exact_mul(old.v, f.beta2), exact_mul(exact_mul(f.one_minus_beta2, g), g));
  const float denominator = exact_add(exact_div(__fsqrt_rn(v), f.correction2_root), o.epsilon);
  *parameter = exact_add(exact_mul(*parameter, f.decay), exact_div(exact_mul(f.minus_step_size, m), denominator));
  return {m, v};
}

__global__ void __launch_bounds__(kThreads)
    adamw_update_kernel(float* parameter, float* m, float* v, const float* gradient, int64_t n, Options o,
                        const StepState* state) {
  if (state->out.valid == 0) return;
  __shared__ Factors shared;
  if (threadIdx.x == 0) shared = factors_of(*state, o);
  __syncthreads();
  const Factors f = shared;
  for (int64_t i = first_element(); i < n; i += element_stride()) {
    const Moments moments = update_element(parameter + i, gradient[i], {m[i], v[i]}, f, o);
    m[i] = moments.m;
    v[i] = moments.v;
  }
}

/// Elements whose random words a block makes at once, four a thread, before its threads take neighbouring elements.
constexpr int kTile = 4 * kThreads;

__global__ void __launch_bounds__(kThreads)
    adamw_update_rounded_kernel(float* parameter, bfloat16* m, bfloat16* v, const float* gradient, int64_t n, Options o,
                                RoundingPlace place, const StepState* state) {
  if (state->out.valid == 0) return;
  __shared__ Factors shared;
  __shared__ Philox4x32 words[kThreads];
  if (threadIdx.x == 0) shared = factors_of(*state, o);
  __syncthreads();
  const Factors f = shared;
  // Tiles begin at multiples of four of the parameter's elements; the first may begin before this array does.
  const int64_t before = place.first % 4;
  for (int64_t tile = blockIdx.x; tile * kTile - before < n; tile += gridDim.x) {
    const int64_t begin = tile * kTile - before;
    __syncthreads();
    words[threadIdx.x] = rounding_words(place.key, static_cast<uint64_t>((place.first + begin) / 4 + threadIdx.x),
                                        static_cast<uint64_t>(state->out.updates));
    __syncthreads();
    for (int j = threadIdx.x; j < kTile; j += kThreads) {
      const int64_t i = begin + j;
      if (i < 0 || i >= n) continue;
      const uint32_t word = words[j / 4].word[j % 4];
      const Moments moments = update_element(parameter + i, gradient[i], {to_float(m[i]), to_float(v[i])}, f, o);
      m[i] = round_randomly(moments.m, static_cast<uint16_t>(word));
      v[i] = round_randomly(moments.v, static_cast<uint16_t>(word >> 16));
    }
  }
}

}  // namespace

void adamw_update(float* parameter, float* m, float* v, const float* gradient, int64_t n, double weight_decay,
                  const cpu::AdamWOptions& options, const StepState* state, cudaStream_t stream) {
  if (n <= 0) return;
  const Options o{options.beta1, options.beta2, weight_decay, static_cast<float>(options.epsilon)};
  adamw_update_kernel<<<blocks_for<kThreads>(n), kThreads, 0, stream>>>(parameter, m, v, gradient, n, o, state);
  check_launch("adamw_update_kernel");
}

void adamw_update(float* parameter, bfloat16* m, bfloat16* v, const float* gradient, int64_t n, double weight_decay,
                  const cpu::AdamWOptions& options, const RoundingPlace& place, const StepState* state,
                  cudaStream_t stream) {
  if (n <= 0) return;
  const Options o{options.beta1, options.beta2, weight_decay, static_cast<float>(options.epsilon)};
  adamw_update_rounded_kernel<<<blocks_for<kTile>(n + place.first % 4), kThreads, 0, stream>>>(
      parameter, m, v, gradient, n, o, place, state);
  check_launch("adamw_update_rounded_kernel");
}

}  // namespace deeptitan::cuda

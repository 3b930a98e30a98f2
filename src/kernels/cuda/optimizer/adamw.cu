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

__global__ void __launch_bounds__(kThreads)
    adamw_update_kernel(float* parameter, float* m, float* v, const float* gradient, int64_t n, Options o,
                        const StepState* state) {
  if (state->out.valid == 0) return;
  __shared__ Factors shared;
  if (threadIdx.x == 0) shared = factors_of(*state, o);
  __syncthreads();
  const Factors f = shared;
  for (int64_t i = first_element(); i < n; i += element_stride()) {
    const float g = exact_mul(gradient[i], f.scale);
    const float m_new = exact_fma(f.one_minus_beta1, exact_add(g, -m[i]), m[i]);
    const float v_new = exact_add(exact_mul(v[i], f.beta2), exact_mul(exact_mul(f.one_minus_beta2, g), g));
    const float denominator = exact_add(exact_div(__fsqrt_rn(v_new), f.correction2_root), o.epsilon);
    m[i] = m_new;
    v[i] = v_new;
    parameter[i] =
        exact_add(exact_mul(parameter[i], f.decay), exact_div(exact_mul(f.minus_step_size, m_new), denominator));
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

}  // namespace deeptitan::cuda

#include <cmath>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/optimizer/adamw.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

/// Every factor is computed in double and rounded once.
struct Factors {
  float scale;
  float decay;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float correction2_root;
  float epsilon;
  float minus_step_size;
};

__global__ void __launch_bounds__(kThreads)
    adamw_update_kernel(float* parameter, float* m, float* v, const float* gradient, int64_t n, Factors f) {
  for (int64_t i = first_element(); i < n; i += element_stride()) {
    const float g = exact_mul(gradient[i], f.scale);
    const float m_new = exact_fma(f.one_minus_beta1, exact_add(g, -m[i]), m[i]);
    const float v_new = exact_add(exact_mul(v[i], f.beta2), exact_mul(exact_mul(f.one_minus_beta2, g), g));
    const float denominator = exact_add(exact_div(__fsqrt_rn(v_new), f.correction2_root), f.epsilon);
    m[i] = m_new;
    v[i] = v_new;
    parameter[i] =
        exact_add(exact_mul(parameter[i], f.decay), exact_div(exact_mul(f.minus_step_size, m_new), denominator));
  }
}

}  // namespace

void adamw_update(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const cpu::AdamWOptions& options,
                  cudaStream_t stream) {
  if (n <= 0) return;
  const double correction1 = 1.0 - std::pow(options.beta1, static_cast<double>(step));
  const double correction2 = 1.0 - std::pow(options.beta2, static_cast<double>(step));
  const Factors factors{.scale = gradient_scale,
                        .decay = static_cast<float>(1.0 - learning_rate * weight_decay),
                        .one_minus_beta1 = static_cast<float>(1.0 - options.beta1),
                        .beta2 = static_cast<float>(options.beta2),
                        .one_minus_beta2 = static_cast<float>(1.0 - options.beta2),
                        .correction2_root = static_cast<float>(std::sqrt(correction2)),
                        .epsilon = static_cast<float>(options.epsilon),
                        .minus_step_size = static_cast<float>(-(learning_rate / correction1))};
  adamw_update_kernel<<<blocks_for<kThreads>(n), kThreads, 0, stream>>>(parameter, m, v, gradient, n, factors);
  check_launch("adamw_update_kernel");
}

}  // namespace deeptitan::cuda

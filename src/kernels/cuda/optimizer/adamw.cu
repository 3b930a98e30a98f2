#include <type_traits>

#include "kernels/cuda/error.h"
#include "kernels/cuda/optimizer/adamw.h"
#include "kernels/cuda/vector.cuh"

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

__device__ void keep_moments(float* m, float* v, const Moments& x, uint32_t) {
  *m = x.m;
  *v = x.v;
}
__device__ void keep_moments(bfloat16* m, bfloat16* v, const Moments& x, uint32_t word) {
  *m = round_randomly(x.m, static_cast<uint16_t>(word));
  *v = round_randomly(x.v, static_cast<uint16_t>(word >> 16));
}

/// Four neighbours, as they were read.
template <typename T>
struct Chunk {
  float4 parameter, gradient;
  std::conditional_t<std::is_same_v<T, float>, float4, ushort4> m, v;
};

/// A thread takes elements 4k to 4k + 3 of the whole parameter at once, whose random words are one call's, and reads
/// its next ones before it works on these. kVectors: such elements of this array begin at whole words. The new
/// parameter goes to `rounded` too, in bf16, where that is not null.
template <typename T, bool kVectors>
__global__ void __launch_bounds__(kThreads)
    adamw_update_kernel(float* parameter, T* m, T* v, bfloat16* rounded, const float* gradient, int64_t n, Options o,
                        RoundingPlace place, const StepState* state) {
  if (state->out.valid == 0) return;
  using Pack = decltype(Chunk<T>::m);
  const int64_t before = place.first % kVector;  // of the first four, this many lie before the array
  const auto whole = [&](int64_t begin) { return kVectors && begin >= 0 && begin + kVector <= n; };
  const auto load = [&](int64_t begin) {
    Chunk<T> x{};
    if (whole(begin)) {
      x.parameter = *reinterpret_cast<const float4*>(parameter + begin);
      x.m = *reinterpret_cast<const Pack*>(m + begin);
      x.v = *reinterpret_cast<const Pack*>(v + begin);
      x.gradient = *reinterpret_cast<const float4*>(gradient + begin);
    }
    return x;
  };
  const int64_t stride = element_stride() * kVector;
  int64_t begin = first_element() * kVector - before;
  Chunk<T> x = load(begin);

  __shared__ Factors shared;
  if (threadIdx.x == 0) shared = factors_of(*state, o);
  __syncthreads();
  const Factors f = shared;
  const auto update = static_cast<uint64_t>(state->out.updates);
  while (begin < n) {
    const Chunk<T> next = load(begin + stride);
    Philox4x32 words{};
    if constexpr (std::is_same_v<T, bfloat16>) {
      words = rounding_words(place.key, static_cast<uint64_t>((place.first + begin) / kVector), update);
    }
    const auto change = [&](float* p, T* first, T* second, float g, uint32_t word) {
      keep_moments(first, second, update_element(p, g, {to_float(*first), to_float(*second)}, f, o), word);
    };
    if (whole(begin)) {
      auto* p = reinterpret_cast<float*>(&x.parameter);
      auto *first = reinterpret_cast<T*>(&x.m), *second = reinterpret_cast<T*>(&x.v);
      const auto* g = reinterpret_cast<const float*>(&x.gradient);
#pragma unroll
      for (int j = 0; j < kVector; ++j) change(p + j, first + j, second + j, g[j], words.word[j]);
      *reinterpret_cast<float4*>(parameter + begin) = x.parameter;
      *reinterpret_cast<Pack*>(m + begin) = x.m;
      *reinterpret_cast<Pack*>(v + begin) = x.v;
      if (rounded != nullptr) store_floats(rounded + begin, Floats<kVector>{{p[0], p[1], p[2], p[3]}});
    } else {
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const int64_t i = begin + j;
        if (i < 0 || i >= n) continue;
        change(parameter + i, m + i, v + i, gradient[i], words.word[j]);
        if (rounded != nullptr) store_rounded(rounded + i, parameter[i]);
      }
    }
    begin += stride;
    x = next;
  }
}

template <typename T>
void launch_adamw(float* parameter, T* m, T* v, bfloat16* rounded, const float* gradient, int64_t n,
                  double weight_decay, const cpu::AdamWOptions& options, const RoundingPlace& place,
                  const StepState* state, cudaStream_t stream) {
  if (n <= 0) return;
  const Options o{options.beta1, options.beta2, weight_decay, static_cast<float>(options.epsilon)};
  const int64_t before = place.first % kVector;
  const bool vectors = takes_vectors(parameter - before, 0) && takes_vectors(m - before, 0) &&
                       takes_vectors(v - before, 0) && takes_vectors(gradient - before, 0) &&
                       (rounded == nullptr || takes_vectors(rounded - before, 0));
  const auto kernel = vectors ? adamw_update_kernel<T, true> : adamw_update_kernel<T, false>;
  const unsigned blocks = blocks_for<kThreads>((n + before + kVector - 1) / kVector);
  kernel<<<blocks, kThreads, 0, stream>>>(parameter, m, v, rounded, gradient, n, o, place, state);
  check_launch("adamw_update_kernel");
}

}  // namespace

void adamw_update(float* parameter, float* m, float* v, bfloat16* rounded, const float* gradient, int64_t n,
                  double weight_decay, const cpu::AdamWOptions& options, const StepState* state, cudaStream_t stream) {
  launch_adamw(parameter, m, v, rounded, gradient, n, weight_decay, options, {}, state, stream);
}

void adamw_update(float* parameter, bfloat16* m, bfloat16* v, bfloat16* rounded, const float* gradient, int64_t n,
                  double weight_decay, const cpu::AdamWOptions& options, const RoundingPlace& place,
                  const StepState* state, cudaStream_t stream) {
  launch_adamw(parameter, m, v, rounded, gradient, n, weight_decay, options, place, state, stream);
}

}  // namespace deeptitan::cuda

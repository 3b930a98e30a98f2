#include "kernels/cpu/activation/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activation/swiglu.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

HWY_INLINE FloatVec sigmoid(FloatVec x) {
  const FloatVec one = hn::Set(FloatTag(), 1.0f);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(x))));
}

template <typename T>
void swiglu_rows(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate_row = gate + r * ld_gate_up;
    const T* up_row = up + r * ld_gate_up;
    T* out_row = out + r * width;
    for_vectors(0, width, [=](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec g = load(gate_row + i, lanes);
      store(hn::Mul(hn::Mul(g, sigmoid(g)), load(up_row + i, lanes)), out_row + i, lanes);
    });
  }
}

template <typename T>
void swiglu_backward_rows(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                          int64_t ld_gate_up, int64_t rows, int64_t width) {
  const FloatVec one = hn::Set(FloatTag(), 1.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate_row = gate + r * ld_gate_up;
    const T* up_row = up + r * ld_gate_up;
    const T* d_out_row = d_out + r * width;
    T* d_gate_row = d_gate + r * ld_d;
    T* d_up_row = d_up + r * ld_d;
    for_vectors(0, width, [=](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec g = load(gate_row + i, lanes);
      const FloatVec u = load(up_row + i, lanes);
      const FloatVec s = sigmoid(g);
      const FloatVec d_out_s = hn::Mul(load(d_out_row + i, lanes), s);
      const FloatVec slope = hn::MulAdd(g, hn::Sub(one, s), one);
      store(hn::Mul(d_out_s, g), d_up_row + i, lanes);
      store(hn::Mul(hn::Mul(d_out_s, u), slope), d_gate_row + i, lanes);
    });
  }
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& swiglu_f32 = swiglu_rows<float>;
constexpr auto& swiglu_bf16 = swiglu_rows<bfloat16>;
constexpr auto& swiglu_backward_f32 = swiglu_backward_rows<float>;
constexpr auto& swiglu_backward_bf16 = swiglu_backward_rows<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <numeric>

#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(swiglu_f32);
HWY_EXPORT(swiglu_bf16);
HWY_EXPORT(swiglu_backward_f32);
HWY_EXPORT(swiglu_backward_bf16);

// An exponential and a division cost about as much as eight plain operations.
constexpr int64_t kWorkPerElement = 8;

// Calls body(first, rows) for the runs of rows that make up the groups, on several threads.
template <typename Body>
void for_group_rows(const GroupRows& rows, int64_t width, const Body& body) {
  const int64_t all = std::accumulate(rows.count, rows.count + rows.groups, int64_t{0});
  parallel_ranges(all, kWorkPerElement * all * width, 1, [&](int64_t begin, int64_t end) {
    int64_t before = 0;  // rows of the groups before g
    for (int64_t g = 0; g < rows.groups && before < end; ++g) {
      const int64_t from = std::max(begin, before);
      const int64_t to = std::min<int64_t>(end, before + rows.count[g]);
      if (from < to) body(rows.first[g] + from - before, to - from);
      before += rows.count[g];
    }
  });
}

template <typename T, typename Kernel>
void swiglu_parallel(Kernel kernel, T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows,
                     int64_t width) {
  parallel_ranges(rows, kWorkPerElement * rows * width, 1, [=](int64_t begin, int64_t end) {
    kernel(out + begin * width, gate + begin * ld_gate_up, up + begin * ld_gate_up, ld_gate_up, end - begin, width);
  });
}

template <typename T, typename Kernel>
void grouped_swiglu_parallel(Kernel kernel, T* out, const T* gate, const T* up, int64_t ld_gate_up,
                             const GroupRows& rows, int64_t width) {
  for_group_rows(rows, width, [=](int64_t first, int64_t count) {
    kernel(out + first * width, gate + first * ld_gate_up, up + first * ld_gate_up, ld_gate_up, count, width);
  });
}

template <typename T, typename Kernel>
void swiglu_backward_parallel(Kernel kernel, T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate,
                              const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  parallel_ranges(rows, kWorkPerElement * rows * width, 1, [=](int64_t begin, int64_t end) {
    kernel(d_gate + begin * ld_d, d_up + begin * ld_d, ld_d, d_out + begin * width, gate + begin * ld_gate_up,
           up + begin * ld_gate_up, ld_gate_up, end - begin, width);
  });
}

template <typename T, typename Kernel>
void grouped_swiglu_backward_parallel(Kernel kernel, T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate,
                                      const T* up, int64_t ld_gate_up, const GroupRows& rows, int64_t width) {
  for_group_rows(rows, width, [=](int64_t first, int64_t count) {
    kernel(d_gate + first * ld_d, d_up + first * ld_d, ld_d, d_out + first * width, gate + first * ld_gate_up,
           up + first * ld_gate_up, ld_gate_up, count, width);
  });
}

}  // namespace

void swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_parallel(HWY_DYNAMIC_DISPATCH(swiglu_f32), out, gate, up, ld_gate_up, rows, width);
}

void swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_parallel(HWY_DYNAMIC_DISPATCH(swiglu_bf16), out, gate, up, ld_gate_up, rows, width);
}

void swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate, const float* up,
                     int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_backward_parallel(HWY_DYNAMIC_DISPATCH(swiglu_backward_f32), d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up,
                           rows, width);
}

void swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out, const bfloat16* gate,
                     const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_backward_parallel(HWY_DYNAMIC_DISPATCH(swiglu_backward_bf16), d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up,
                           rows, width);
}

void grouped_swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t width) {
  grouped_swiglu_parallel(HWY_DYNAMIC_DISPATCH(swiglu_f32), out, gate, up, ld_gate_up, rows, width);
}

void grouped_swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t width) {
  grouped_swiglu_parallel(HWY_DYNAMIC_DISPATCH(swiglu_bf16), out, gate, up, ld_gate_up, rows, width);
}

void grouped_swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate,
                             const float* up, int64_t ld_gate_up, const GroupRows& rows, int64_t width) {
  grouped_swiglu_backward_parallel(HWY_DYNAMIC_DISPATCH(swiglu_backward_f32), d_gate, d_up, ld_d, d_out, gate, up,
                                   ld_gate_up, rows, width);
}

void grouped_swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out,
                             const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                             int64_t width) {
  grouped_swiglu_backward_parallel(HWY_DYNAMIC_DISPATCH(swiglu_backward_bf16), d_gate, d_up, ld_d, d_out, gate, up,
                                   ld_gate_up, rows, width);
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE

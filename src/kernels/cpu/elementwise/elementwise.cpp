#include "kernels/cpu/elementwise/elementwise.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise/elementwise.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

/// out = a + b, the sum in float.
template <typename Out, typename A, typename B>
void add_elements(Out* out, const A* a, const B* b, int64_t n) {
  for_vectors(0, n, [=](int64_t i, auto lanes) HWY_ATTR {
    store(hn::Add(load(a + i, lanes), load(b + i, lanes)), out + i, lanes);
  });
}

template <typename T>
void scale_elements(T* x, float factor, int64_t n) {
  const FloatVec factors = hn::Set(FloatTag(), factor);
  for_vectors(0, n, [=](int64_t i, auto lanes) HWY_ATTR { store(hn::Mul(load(x + i, lanes), factors), x + i, lanes); });
}

template <typename Out, typename In>
void convert_rows(Out* out, int64_t ld_out, const In* in, int64_t ld_in, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const In* in_row = in + r * ld_in;
    Out* out_row = out + r * ld_out;
    for_vectors(0, columns,
                [=](int64_t i, auto lanes) HWY_ATTR { store(load(in_row + i, lanes), out_row + i, lanes); });
  }
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& add_f32 = add_elements<float, float, float>;
constexpr auto& add_bf16 = add_elements<bfloat16, bfloat16, bfloat16>;
constexpr auto& add_f32_bf16 = add_elements<float, float, bfloat16>;
constexpr auto& scale_f32 = scale_elements<float>;
constexpr auto& scale_bf16 = scale_elements<bfloat16>;
constexpr auto& convert_f32_to_bf16 = convert_rows<bfloat16, float>;
constexpr auto& convert_bf16_to_f32 = convert_rows<float, bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(add_f32);
HWY_EXPORT(add_bf16);
HWY_EXPORT(add_f32_bf16);
HWY_EXPORT(scale_f32);
HWY_EXPORT(scale_bf16);
HWY_EXPORT(convert_f32_to_bf16);
HWY_EXPORT(convert_bf16_to_f32);

// Threads meet at multiples of this many elements, so that no cache line is written by two.
constexpr int64_t kGrain = 1024;

template <typename Out, typename A, typename B, typename Kernel>
void add_parallel(Kernel kernel, Out* out, const A* a, const B* b, int64_t n) {
  parallel_ranges(n, n, kGrain,
                  [=](int64_t begin, int64_t end) { kernel(out + begin, a + begin, b + begin, end - begin); });
}

template <typename T, typename Kernel>
void scale_parallel(Kernel kernel, T* x, float factor, int64_t n) {
  parallel_ranges(n, n, kGrain, [=](int64_t begin, int64_t end) { kernel(x + begin, factor, end - begin); });
}

template <typename Out, typename In, typename Kernel>
void convert_parallel(Kernel kernel, Out* out, int64_t ld_out, const In* in, int64_t ld_in, int64_t rows,
                      int64_t columns) {
  parallel_ranges(rows, rows * columns, 1, [=](int64_t begin, int64_t end) {
    kernel(out + begin * ld_out, ld_out, in + begin * ld_in, ld_in, end - begin, columns);
  });
}

template <typename Out, typename In, typename Kernel>
void convert_parallel(Kernel kernel, Out* out, const In* in, int64_t n) {
  parallel_ranges(n, n, kGrain,
                  [=](int64_t begin, int64_t end) { kernel(out + begin, 0, in + begin, 0, 1, end - begin); });
}

template <typename T>
void fill_zero_parallel(T* x, int64_t n) {
  parallel_ranges(n, n, kGrain, [=](int64_t begin, int64_t end) {
    std::memset(x + begin, 0, static_cast<size_t>(end - begin) * sizeof(T));
  });
}

}  // namespace

void add(float* out, const float* a, const float* b, int64_t n) {
  add_parallel(HWY_DYNAMIC_DISPATCH(add_f32), out, a, b, n);
}

void add(bfloat16* out, const bfloat16* a, const bfloat16* b, int64_t n) {
  add_parallel(HWY_DYNAMIC_DISPATCH(add_bf16), out, a, b, n);
}

void accumulate(float* a, const float* b, int64_t n) {
  add(a, a, b, n);
}

void accumulate(bfloat16* a, const bfloat16* b, int64_t n) {
  add(a, a, b, n);
}

void add_to_float(float* sum, const float* x, int64_t n) {
  add(sum, sum, x, n);
}

void add_to_float(float* sum, const bfloat16* x, int64_t n) {
  add_parallel(HWY_DYNAMIC_DISPATCH(add_f32_bf16), sum, sum, x, n);
}

void convert(bfloat16* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns) {
  convert_parallel(HWY_DYNAMIC_DISPATCH(convert_f32_to_bf16), out, ld_out, in, ld_in, rows, columns);
}

void convert(float* out, int64_t ld_out, const bfloat16* in, int64_t ld_in, int64_t rows, int64_t columns) {
  convert_parallel(HWY_DYNAMIC_DISPATCH(convert_bf16_to_f32), out, ld_out, in, ld_in, rows, columns);
}

void convert(bfloat16* out, const float* in, int64_t n) {
  convert_parallel(HWY_DYNAMIC_DISPATCH(convert_f32_to_bf16), out, in, n);
}

void convert(float* out, const bfloat16* in, int64_t n) {
  convert_parallel(HWY_DYNAMIC_DISPATCH(convert_bf16_to_f32), out, in, n);
}

void scale(float* x, float factor, int64_t n) {
  scale_parallel(HWY_DYNAMIC_DISPATCH(scale_f32), x, factor, n);
}

void scale(bfloat16* x, float factor, int64_t n) {
  scale_parallel(HWY_DYNAMIC_DISPATCH(scale_bf16), x, factor, n);
}

void fill_zero(float* x, int64_t n) {
  fill_zero_parallel(x, n);
}

void fill_zero(bfloat16* x, int64_t n) {
  fill_zero_parallel(x, n);
}

void copy_rows(void* out, int64_t ld_out, const void* in, int64_t ld_in, int64_t rows, int64_t row_bytes) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<char*>(out) + r * ld_out, static_cast<const char*>(in) + r * ld_in,
                static_cast<size_t>(row_bytes));
  }
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE

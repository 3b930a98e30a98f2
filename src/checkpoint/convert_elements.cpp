#include "checkpoint/convert_elements.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/bfloat16.h"
#include "core/error.h"
#include "core/float8.h"

namespace deeptitan {
namespace {

struct Half {
  uint16_t bits;
};

/// IEEE binary16 to binary32, exact; integer operations only, so that the loop over it vectorises.
float to_float(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    bits = 0x7f800000u | (magnitude << 13);
  } else if (magnitude >= 0x0400u) {
    bits = (magnitude << 13) + ((127u - 15u) << 23);
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &subnormal, sizeof bits);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float to_float(double x) {
  return static_cast<float>(x);
}

const std::array<float, 256>& float8_table() {
  static const auto table = [] {
    std::array<float, 256> values;
    for (size_t i = 0; i < values.size(); ++i) values[i] = to_float(float8_e4m3{static_cast<uint8_t>(i)});
    return values;
  }();
  return table;
}

void round_to(float x, float& y) {
  y = x;
}
void round_to(float x, bfloat16& y) {
  y = to_bfloat16(x);
}
void round_to(float x, float8_e4m3& y) {
  y = to_float8_e4m3(x);
}

/// On all threads: a copy out of a mapped file is bound by page faults, which threads share.
void copy_bytes(const std::byte* source, std::byte* destination, int64_t bytes) {
  constexpr int64_t kPiece = int64_t{1} << 20;
#pragma omp parallel for schedule(static) if (bytes > kPiece)
  for (int64_t offset = 0; offset < bytes; offset += kPiece) {
    std::memcpy(destination + offset, source + offset, static_cast<size_t>(std::min(kPiece, bytes - offset)));
  }
}

template <typename From, typename To>
void convert_loop(const std::byte* source, std::byte* destination, int64_t count) {
  [[maybe_unused]] const float* table = float8_table().data();
#pragma omp parallel for simd schedule(static) if (parallel : count > (1 << 16))
  for (int64_t i = 0; i < count; ++i) {
    From x;
    std::memcpy(&x, source + i * static_cast<int64_t>(sizeof x), sizeof x);
    To y;
    if constexpr (std::is_same_v<From, float8_e4m3>) {
      round_to(table[x.bits], y);
    } else {
      round_to(to_float(x), y);
    }
    std::memcpy(destination + i * static_cast<int64_t>(sizeof y), &y, sizeof y);
  }
}

template <typename To>
void convert_to(const std::byte* source, DType from, std::byte* destination, DType to, int64_t count) {
  switch (from) {
    case DType::kF32:
      return convert_loop<float, To>(source, destination, count);
    case DType::kF16:
      return convert_loop<Half, To>(source, destination, count);
    case DType::kBF16:
      return convert_loop<bfloat16, To>(source, destination, count);
    case DType::kF64:
      return convert_loop<double, To>(source, destination, count);
    case DType::kF8E4M3:
      return convert_loop<float8_e4m3, To>(source, destination, count);
    default:
      fail("elements of {} cannot be converted to {}", dtype_name(from), dtype_name(to));
  }
}

/// One row of one block, by way of its values in fp32, in loops that vectorise: an e4m3's exponent and mantissa in a
/// float's places are its value but for the difference of the exponents' biases, 2^120, subnormals too.
template <typename To>
void dequantize_row(const std::byte* values, float scale, int64_t count, std::byte* weights) {
  uint32_t bits[kFloat8BlockSize];
  float scaled[kFloat8BlockSize];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) bits[i] = std::to_integer<uint32_t>(values[i]);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = bits[i] & 0x7fu;
    const uint32_t number = (magnitude << 20) | ((bits[i] & 0x80u) << 24);
    bits[i] = magnitude == 0x7fu ? 0x7fc00000u : number;
  }
  std::memcpy(scaled, bits, static_cast<size_t>(count) * sizeof(float));
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scaled[i] = scaled[i] * 0x1p120f * scale;
  if constexpr (std::is_same_v<To, float>) {
    std::memcpy(weights, scaled, static_cast<size_t>(count) * sizeof(float));
  } else {
    To rounded[kFloat8BlockSize];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) rounded[i] = to_bfloat16(scaled[i]);
    std::memcpy(weights, rounded, static_cast<size_t>(count) * sizeof(To));
  }
}

template <typename To>
void dequantize(const std::byte* values, const std::byte* scale_inv, int64_t rows, int64_t columns,
                std::byte* weights) {
  const int64_t column_blocks = (columns + kFloat8BlockSize - 1) / kFloat8BlockSize;
#pragma omp parallel for schedule(static) if (rows * columns > (1 << 16))
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t block = 0; block < column_blocks; ++block) {
      float scale;
      std::memcpy(&scale, scale_inv + (row / kFloat8BlockSize * column_blocks + block) * 4, sizeof scale);
      const int64_t begin = row * columns + block * kFloat8BlockSize;
      const int64_t count = std::min(kFloat8BlockSize, columns - block * kFloat8BlockSize);
      dequantize_row<To>(values + begin, scale, count, weights + begin * static_cast<int64_t>(sizeof(To)));
    }
  }
}

template <typename From>
void quantize(const std::byte* weights, int64_t rows, int64_t columns, uint8_t* values, float* scale_inv) {
  const auto load = [&](int64_t i) {
    From x;
    std::memcpy(&x, weights + i * static_cast<int64_t>(sizeof x), sizeof x);
    return to_float(x);
  };
  const int64_t row_blocks = (rows + kFloat8BlockSize - 1) / kFloat8BlockSize;
  const int64_t column_blocks = (columns + kFloat8BlockSize - 1) / kFloat8BlockSize;
#pragma omp parallel for schedule(static) collapse(2) if (rows * columns > (1 << 16))
  for (int64_t row_block = 0; row_block < row_blocks; ++row_block) {
    for (int64_t column_block = 0; column_block < column_blocks; ++column_block) {
      const int64_t row_end = std::min(rows, (row_block + 1) * kFloat8BlockSize);
      const int64_t column_begin = column_block * kFloat8BlockSize;
      const int64_t column_end = std::min(columns, column_begin + kFloat8BlockSize);
      uint32_t largest_bits = 0;  // as integers, |x| are ordered like the floats, with infinity and NaN above them
      for (int64_t row = row_block * kFloat8BlockSize; row < row_end; ++row) {
        for (int64_t column = column_begin; column < column_end; ++column) {
          const float x = load(row * columns + column);
          uint32_t bits;
          std::memcpy(&bits, &x, sizeof bits);
          largest_bits = std::max(largest_bits, bits & 0x7fffffffu);
        }
      }
      float largest;
      std::memcpy(&largest, &largest_bits, sizeof largest);
      // A scale is never subnormal: dividing by one could lose all of its few bits.
      float scale = 1.0f;
      if (largest_bits != 0) {
        scale = largest / kFloat8E4M3Max;
        if (scale < std::numeric_limits<float>::min()) scale = std::numeric_limits<float>::min();
      }
      scale_inv[row_block * column_blocks + column_block] = scale;
      for (int64_t row = row_block * kFloat8BlockSize; row < row_end; ++row) {
        for (int64_t column = column_begin; column < column_end; ++column) {
          const int64_t i = row * columns + column;
          values[i] = to_float8_e4m3(load(i) / scale).bits;
        }
      }
    }
  }
}

/// Whether some of `count` elements have all bits of `exponent`. Without an early exit, so that the loop vectorises.
template <typename Bits>
bool any_with_exponent(const std::byte* elements, Bits exponent, int64_t count) {
  Bits any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, elements + i * static_cast<int64_t>(sizeof bits), sizeof bits);
    any |= (bits & exponent) == exponent ? Bits{1} : Bits{0};
  }
  return any != 0;
}

/// NaN and infinity are the elements whose exponent's bits are all set.
template <typename Bits>
int64_t first_with_exponent(const std::byte* elements, Bits exponent, int64_t count) {
  constexpr int64_t kPiece = 1 << 16;
  int64_t first = count;
#pragma omp parallel for schedule(static) reduction(min : first) if (count > kPiece)
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, count);
    constexpr auto kSize = static_cast<int64_t>(sizeof(Bits));
    if (!any_with_exponent(elements + begin * kSize, exponent, end - begin)) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (!any_with_exponent(elements + i * kSize, exponent, 1)) continue;
      first = std::min(first, i);
      break;
    }
  }
  return first == count ? -1 : first;
}

}  // namespace

void convert_elements(const void* source, DType from, void* destination, DType to, int64_t count) {
  const auto* in = static_cast<const std::byte*>(source);
  auto* out = static_cast<std::byte*>(destination);
  if (from == to) return copy_bytes(in, out, count * static_cast<int64_t>(dtype_size(to)));
  switch (to) {
    case DType::kF32:
      return convert_to<float>(in, from, out, to, count);
    case DType::kBF16:
      return convert_to<bfloat16>(in, from, out, to, count);
    case DType::kF8E4M3:
      return convert_to<float8_e4m3>(in, from, out, to, count);
    default:
      fail("elements of {} cannot be converted to {}", dtype_name(from), dtype_name(to));
  }
}

void dequantize_float8_blocks(const void* values, const void* scale_inv, int64_t rows, int64_t columns, void* weights,
                              DType to) {
  const auto* in = static_cast<const std::byte*>(values);
  const auto* scales = static_cast<const std::byte*>(scale_inv);
  auto* out = static_cast<std::byte*>(weights);
  switch (to) {
    case DType::kF32:
      return dequantize<float>(in, scales, rows, columns, out);
    case DType::kBF16:
      return dequantize<bfloat16>(in, scales, rows, columns, out);
    default:
      fail("fp8 blocks can be dequantised to f32 or bf16, not to {}", dtype_name(to));
  }
}

void quantize_float8_blocks(const void* weights, DType from, int64_t rows, int64_t columns, uint8_t* values,
                            float* scale_inv) {
  const auto* in = static_cast<const std::byte*>(weights);
  switch (from) {
    case DType::kF32:
      return quantize<float>(in, rows, columns, values, scale_inv);
    case DType::kBF16:
      return quantize<bfloat16>(in, rows, columns, values, scale_inv);
    default:
      fail("fp8 blocks can be quantised from f32 or bf16, not from {}", dtype_name(from));
  }
}

int64_t first_not_finite(const void* elements, DType dtype, int64_t count) {
  const auto* bytes = static_cast<const std::byte*>(elements);
  switch (dtype) {
    case DType::kF32:
      return first_with_exponent<uint32_t>(bytes, 0x7f800000u, count);
    case DType::kBF16:
      return first_with_exponent<uint16_t>(bytes, 0x7f80u, count);
    default:
      fail("elements of f32 or bf16 can be checked to be finite, not of {}", dtype_name(dtype));
  }
}

}  // namespace deeptitan

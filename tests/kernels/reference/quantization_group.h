#pragma once

// One group of up to 128 values; the files of this folder share it.

#include <cstdint>

#include "kernels/quantization.h"

namespace deeptitan::cpu {

/// values [n] as floats.
void load_group(float* values, const bfloat16* x, int64_t n);
void load_group(float* values, const float* x, int64_t n);

/// values [n] = silu(gate) * up.
void load_gated_group(float* values, const bfloat16* gate, const bfloat16* up, int64_t n);

/// The largest finite magnitude of values [n], 0 where there is none.
float finite_amax(const float* values, int64_t n);

/// q [n] = e4m3(values * inverse), NaN for what is not finite.
void round_group(float8_e4m3* q, const float* values, float inverse, int64_t n);

/// out [n] = q * scale.
void dequantize_group(float* out, const float8_e4m3* q, float scale, int64_t n);
void dequantize_group(bfloat16* out, const float8_e4m3* q, float scale, int64_t n);

}  // namespace deeptitan::cpu

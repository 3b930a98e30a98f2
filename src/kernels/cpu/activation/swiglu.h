#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/group_rows.h"

namespace deeptitan::cpu {

// The gated activation of DeepSeek's MLP and experts (Shazeer 2020, arXiv:2002.05202).
// gate and up are [rows, width] with ld_gate_up elements between rows, so that both may be halves of one
// [rows, 2 * width] product. out and d_out are contiguous [rows, width]. Arithmetic is float. Deterministic.

/// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)).
void swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, int64_t rows, int64_t width);
void swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width);

/// Gradients of swiglu. With s = 1 / (1 + exp(-gate)):
///   d_up = d_out * gate * s,   d_gate = d_out * up * s * (1 + gate * (1 - s)).
/// ld_d is the distance between rows of d_gate and d_up. d_gate may be gate and d_up may be up (with the same ld).
void swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate, const float* up,
                     int64_t ld_gate_up, int64_t rows, int64_t width);
void swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out, const bfloat16* gate,
                     const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width);

/// The same for the rows of groups alone.
void grouped_swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t width);
void grouped_swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t width);
void grouped_swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate,
                             const float* up, int64_t ld_gate_up, const GroupRows& rows, int64_t width);
void grouped_swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out,
                             const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                             int64_t width);

}  // namespace deeptitan::cpu

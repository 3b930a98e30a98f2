#pragma once

// The gated activation on the GPU, any size; kernels/cpu/activation/swiglu.h says what each function computes. All
// pointers are device pointers. Deterministic; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/group_rows.h"

namespace deeptitan::cuda {

/// As cpu::swiglu.
void swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, int64_t rows, int64_t width,
            cudaStream_t stream);
void swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width,
            cudaStream_t stream);

/// As cpu::swiglu_backward.
void swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate, const float* up,
                     int64_t ld_gate_up, int64_t rows, int64_t width, cudaStream_t stream);
void swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out, const bfloat16* gate,
                     const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width, cudaStream_t stream);

/// As cpu::grouped_swiglu and cpu::grouped_swiglu_backward; `capacity` rows are as many as all groups may have.
void grouped_swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t capacity, int64_t width, cudaStream_t stream);
void grouped_swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t capacity, int64_t width, cudaStream_t stream);
void grouped_swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate,
                             const float* up, int64_t ld_gate_up, const GroupRows& rows, int64_t capacity,
                             int64_t width, cudaStream_t stream);
void grouped_swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out,
                             const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                             int64_t capacity, int64_t width, cudaStream_t stream);

}  // namespace deeptitan::cuda

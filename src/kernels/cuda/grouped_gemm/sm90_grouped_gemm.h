#pragma once

// Host side of the Hopper kernels: one launcher a kind of product, all over the same kernel (sm90_grouped_gemm.cuh).

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace deeptitan::cuda::sm90 {

/// What a launch needs, passed to the kernel by value. The maps hold device addresses, so a captured launch replays on
/// the same buffers.
struct GroupedGemmParameters {
  CUtensorMap a;        // operand with rows along the output's M, 128 of them a box
  CUtensorMap a_half;   // the same, 64 of them
  CUtensorMap b;        // operand with rows along the output's N
  CUtensorMap output;   // bf16 [rows, n], or fp32 [groups, m, n]
  CUtensorMap a_scale;  // block-wise fp8: fp32 [ceil(k / 128), rows], column-major scales of A
  const int32_t* offsets;
  const int32_t* sizes;
  const float* a_scales;  // row-wise fp8: fp32 [rows]
  const float* b_scales;  // block-wise fp8: fp32 [groups, ceil(n / 128), ceil(k / 128)]; row-wise: fp32 [groups, n]
  void* output_rows;      // the output again, for what goes past the TMA
  bool accumulate;        // weight gradient: added to what is there, else it takes its place
  bool whole_blocks;      // operands whose rows run along the contraction are loaded 128 columns a box, else 64
  /// Weight gradient: rows of other buffers that are added up with these, group by group behind them; sizes null: none.
  /// Forward: `b` alone, the weights of group 1, whose results lie `group_rows` rows below those of group 0.
  struct {
    CUtensorMap a, a_half, b;
    const int32_t* offsets;
    const int32_t* sizes;
    int rows;
  } second;
  int group_rows;  // forward: 0, or what `second` says
  int groups;
  int rows;
  int m;  // weight gradient: rows of each group's output
  int n;
  int k;
};

/// C = A x B^T, B [groups, n, k].
void launch_bf16_forward(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream);
/// C = SwiGLU of A x B^T, B [groups, 2 n, k]: rows of the gate, then those of the up projection.
void launch_bf16_gate_up(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream);
/// C = A x B, B [groups, k, n].
void launch_bf16_input_gradient(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream);
/// W[g] += (or =) A^T x B over the group's rows, and those of `second` behind them, A [rows, m], B [rows, n], W fp32
/// [groups, m, n].
void launch_bf16_weight_gradient(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream);
/// The same where it adds, the sums in shared memory: with few rows, where what is read and written takes longer than
/// the products.
void launch_bf16_added_weight_gradient(const GroupedGemmParameters& parameters, int multiprocessors,
                                       cudaStream_t stream);
/// C = diag(a_scales) A x B^T diag(b_scales), e4m3, B [groups, n, k].
void launch_fp8_rowwise(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream);
/// C = sum over blocks of 128 along k of a_scale x b_scale x (A x B^T), e4m3, B [groups, n, k].
void launch_fp8_blockwise(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream);

}  // namespace deeptitan::cuda::sm90

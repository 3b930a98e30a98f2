#pragma once

// Products of each expert's rows with its weights, the experts' row counts being known to the device alone.
// Legend: rows T of all groups, groups E (experts), n and k: output and input width of an expert's projection.
//
// Group g holds rows group_offsets[g] .. group_offsets[g] + group_sizes[g] - 1 of every [T, .] buffer; both arrays lie
// on the device. Offsets need no alignment and may leave gaps: rows outside every group are neither read into a result
// nor written. Empty groups and T = 0 are fine. Everything contiguous, row-major; 16-byte aligned; n and k multiples of
// 16 bytes' worth of elements. An Error names what is wrong otherwise, before anything is launched.
//
// Every product is deterministic: a row of the output has the same bits whatever shares its group, and from run to run.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/bfloat16.h"
#include "kernels/grouped_gemm_options.h"

namespace deeptitan::cuda {

struct GroupedGemmShape {
  const int32_t* group_offsets;  // [E] on the device (a longer array of cumulative offsets serves too)
  const int32_t* group_sizes;    // [E] on the device
  int groups;                    // E
  int64_t rows;                  // T, rows that the buffers have; below 2^31
  int n;                         // output width of the projection
  int k;                         // input width
};

/// A matrix operand. kLoop and kBf16: bf16, no scales. fp8: e4m3 with fp32 scales laid out as follows, value = element
/// x scale.
///                  activations [T, w]                             weights [E, v, w]
///  kFp8Rowwise     [T]                                            [E, v]
///  kFp8Blockwise   [ceil(w / 128), stride], one for each 1 x 128  [E, ceil(v / 128), ceil(w / 128)],
///                  block, stride = activation_scale_stride(T)     one for each 128 x 128 block
struct GroupedGemmOperand {
  const void* data;
  const float* scales = nullptr;
};

/// Distance in elements between the scales of neighbouring column blocks of `rows` rows: whole 16 bytes.
constexpr int64_t activation_scale_stride(int64_t rows) {
  return (rows + 3) / 4 * 4;
}

/// What the current device can run: kLoop always, the others on compute capability 9.0.
std::vector<GroupedGemmStrategy> available_grouped_gemm_strategies();

/// Device workspace that a product by this strategy needs, 256-byte aligned.
size_t grouped_gemm_workspace_bytes(GroupedGemmStrategy strategy);

/// output [T, n] (bf16) = activations [T, k] x weights[g]^T, weights [E, n, k]. Accumulates in fp32. Throws Error if
/// the strategy is not available (listing those that are), an argument breaks the rules above, or kLoop meets a stream
/// that is being captured.
void grouped_gemm_forward(GroupedGemmStrategy strategy, bfloat16* output, const GroupedGemmOperand& activations,
                          const GroupedGemmOperand& weights, const GroupedGemmShape& shape,
                          const GroupedGemmOptions& options, void* workspace, cudaStream_t stream);

/// output [2, T, n] (bf16) = activations [T, k] x first [n, k]^T and x second [n, k]^T by kBf16, in one launch: the
/// bits of two. `shape` has two groups, both of the same rows. Errors as grouped_gemm_forward.
void grouped_gemm_forward_of_both(bfloat16* output, const bfloat16* activations, const bfloat16* first,
                                  const bfloat16* second, const GroupedGemmShape& shape, cudaStream_t stream);

/// output [T, n] (bf16) = SwiGLU of activations [T, k] x weights[g]^T by kBf16, weights [E, 2 n, k]: n rows of the
/// gate, then as many of the up projection, both rounded to bf16 before they meet. The bits are those of
/// grouped_gemm_forward and grouped_swiglu. Errors as there.
void grouped_gemm_gate_up(bfloat16* output, const bfloat16* activations, const bfloat16* weights,
                          const GroupedGemmShape& shape, const GroupedGemmOptions& options, cudaStream_t stream);

/// input_gradient [T, k] (bf16) = output_gradient [T, n] x weights[g]. bf16 strategies take the forward's weights
/// [E, n, k]; the tensor cores read e4m3 along the contraction alone, so fp8 strategies take the transposed prepared
/// weight [E, k, n]. Errors as grouped_gemm_forward.
void grouped_gemm_input_gradient(GroupedGemmStrategy strategy, bfloat16* input_gradient,
                                 const GroupedGemmOperand& output_gradient, const GroupedGemmOperand& weights,
                                 const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                                 cudaStream_t stream);

/// weight_gradient[g] [E, n, k] (fp32) += output_gradient[rows of g]^T [n, T] x activations[rows of g] [T, k], both
/// bf16; an empty group's gradient is left as it is. Without options.accumulate it is overwritten, an empty group's by
/// zeros. kLoop and kBf16 only. Errors as grouped_gemm_forward.
void grouped_gemm_weight_gradient(GroupedGemmStrategy strategy, float* weight_gradient, const bfloat16* output_gradient,
                                  const bfloat16* activations, const GroupedGemmShape& shape,
                                  const GroupedGemmOptions& options, void* workspace, cudaStream_t stream);

/// Rows of a weight gradient: its operands and where each group lies in them, as in GroupedGemmShape.
struct GroupedGemmRows {
  const bfloat16* output_gradient;
  const bfloat16* activations;
  const int32_t* group_offsets;
  const int32_t* group_sizes;
  int64_t rows;
};

/// As grouped_gemm_weight_gradient by kBf16, of both rows at once: group by group the sums go over the first rows and
/// on over the second, so the gradient is read and written once. E, n and k are `groups`, `n` and `k`.
void grouped_gemm_weight_gradient_of_both(float* weight_gradient, const GroupedGemmRows& first,
                                          const GroupedGemmRows& second, int groups, int n, int k,
                                          const GroupedGemmOptions& options, cudaStream_t stream);

}  // namespace deeptitan::cuda

#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cpu/matmul/panel_kernel.h"

namespace deeptitan::cpu {

/// Steps (words along the contracted dimension) of a packed operand: an odd bf16 length is padded with a zero.
constexpr int64_t packed_steps(OperandType type, int64_t contracted) {
  return type == OperandType::kBfloat16 ? (contracted + 1) / 2 : contracted;
}

/// Panels that hold `columns` columns.
constexpr int64_t packed_panels(int64_t columns) {
  return (columns + kPanelColumns - 1) / kPanelColumns;
}

/// Words of a packed operand B[contracted, columns]: panels of 32 columns, each [steps, 32] words, padded with zeros.
constexpr int64_t packed_words(OperandType type, int64_t contracted, int64_t columns) {
  return packed_panels(columns) * kPanelColumns * packed_steps(type, contracted);
}

/// Packs B[k, n] = source[k, n] (row-major, `ld` elements from row to row), converting to the operand type.
/// Source is float or bfloat16. Packing is one thread's work; threads share blocks or panels.
template <typename Source>
void pack_direct(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                 OperandType type);

/// pack_direct in parts that threads may share: block `block` of pack_direct_blocks() is kPackBlock steps of all
/// panels. `source` is the block's first row.
inline constexpr int64_t kPackBlock = 64;
constexpr int64_t pack_direct_blocks(OperandType type, int64_t contracted) {
  return (packed_steps(type, contracted) + kPackBlock - 1) / kPackBlock;
}
constexpr int64_t pack_block_rows(OperandType type) {
  return type == OperandType::kBfloat16 ? 2 * kPackBlock : kPackBlock;
}
template <typename Source>
void pack_direct_block(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                       OperandType type, int64_t block);

/// Panels [first_panel, first_panel + panels) of pack_direct(W) for a W [contracted, columns], made from
/// pack_transposed(W): the operand of d_y W from that of x W^T.
void repack_transposed(uint32_t* packed, const uint32_t* transposed, int64_t contracted, int64_t columns,
                       int64_t first_panel, int64_t panels, OperandType type);

/// Packs B[k, n] = source[n, k]: the weight of a linear layer [out, in] as the right operand of x * weight^T.
template <typename Source>
void pack_transposed(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                     OperandType type);

}  // namespace deeptitan::cpu

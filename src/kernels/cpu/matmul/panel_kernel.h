#pragma once

#include <cstdint>
#include <vector>

namespace deeptitan::cpu {

/// Columns of one packed panel. Every instruction set uses the same width, so packed weights do not depend on it.
inline constexpr int kPanelColumns = 32;

/// Rows of one register tile. It divides kPanelColumns, so a packed panel serves as either operand.
inline constexpr int kTileRows = 8;

/// How the operands of a product are stored. A *word* is four bytes: one fp32, or two bf16 that are neighbours along
/// the contracted dimension. Everything below counts the contracted dimension in words ("steps").
enum class OperandType { kFloat, kBfloat16 };

/// One product C[rows, panels * 32] (+)= A[rows, steps] * B[steps, panels * 32].
///
/// A is addressed as a[row * a_row_stride + step * a_step_stride], in words, so that it may be row-major
/// (strides K-in-words, 1) or a packed panel read as its transpose (strides 1, 32).
/// B is packed: panel p, step s, column j at b[p * b_panel_stride + s * 32 + j], in words.
/// The sum over steps runs in order, whatever the number of rows and columns: a row's result depends on nothing else.
struct PanelProduct {
  OperandType operands;
  const uint32_t* a;
  int64_t a_row_stride;
  int64_t a_step_stride;
  int64_t rows;
  const uint32_t* b;
  int64_t b_panel_stride;
  int64_t panels;
  int64_t steps;
  void* c;               // fp32 or bf16, row-major
  int64_t c_row_stride;  // in elements
  bool c_is_bfloat16;
  bool accumulate;  // C += instead of C =
  int64_t columns;  // columns of C to write: at most panels * 32, the rest of the last panel is padding
};

using PanelProductFunction = void (*)(const PanelProduct&);

/// What an instruction set has of its own.
struct PanelIsa {
  const char* name;  // avx2, avx512 or avx512_bf16
  PanelProductFunction product;
  /// Its widest multiply-adds on registers alone, in one thread: the fastest that a product can be. Returns the
  /// floating-point operations done (two a multiply-add). `sink` is 16 floats, read and overwritten.
  int64_t (*peak_loop)(OperandType operands, int64_t steps, float* sink);
};

/// The instruction sets of this processor, the widest first.
const std::vector<PanelIsa>& panel_isas();

/// The one that products use: the widest, or the one that the environment variable DEEPTITAN_CPU_ISA names.
const PanelIsa& panel_isa();
inline PanelProductFunction panel_product() {
  return panel_isa().product;
}

namespace avx2 {
void panel_product(const PanelProduct& product);
int64_t peak_loop(OperandType operands, int64_t steps, float* sink);
}  // namespace avx2
namespace avx512 {
void panel_product(const PanelProduct& product);
int64_t peak_loop(OperandType operands, int64_t steps, float* sink);
}  // namespace avx512
namespace avx512_bf16 {
void panel_product(const PanelProduct& product);
int64_t peak_loop(OperandType operands, int64_t steps, float* sink);
}  // namespace avx512_bf16

}  // namespace deeptitan::cpu

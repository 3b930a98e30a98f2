#pragma once

#include <cstdint>

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

/// The product for the widest instruction set of this processor: AVX2, AVX-512, or AVX-512 with bf16.
/// The environment variable DEEPTITAN_CPU_ISA (avx2, avx512, avx512_bf16) asks for a narrower one.
PanelProductFunction panel_product();

/// The name of the instruction set that panel_product() uses.
const char* panel_product_isa();

namespace avx2 {
void panel_product(const PanelProduct& product);
}
namespace avx512 {
void panel_product(const PanelProduct& product);
}
namespace avx512_bf16 {
void panel_product(const PanelProduct& product);
}

}  // namespace deeptitan::cpu

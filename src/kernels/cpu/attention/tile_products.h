#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/matmul/packing.h"
#include "kernels/cpu/matmul/panel_kernel.h"

// Products of one thread on tiles that it has packed itself.

namespace deeptitan::cpu {

template <typename T>
constexpr OperandType kOperand = std::is_same_v<T, bfloat16> ? OperandType::kBfloat16 : OperandType::kFloat;

template <typename T>
constexpr int64_t kPerWord = static_cast<int64_t>(sizeof(uint32_t) / sizeof(T));

inline void store(float* out, float value) {
  *out = value;
}
inline void store(bfloat16* out, float value) {
  *out = to_bfloat16(value);
}

inline int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// Hands out pieces of a thread's workspace, each aligned to a cache line; with no base it only counts.
class Pieces {
 public:
  explicit Pieces(char* base) : base_(base) {}
  template <typename U>
  U* take(int64_t count) {
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(U)), 64);
    return reinterpret_cast<U*>(piece);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// C[rows, columns] (+)= A[rows, contracted] * packed B.
template <typename T, typename Output>
void product(Output* c, int64_t ldc, bool accumulate, const T* a, int64_t lda, const uint32_t* packed, int64_t rows,
             int64_t contracted, int64_t columns, int64_t packed_contracted) {
  const int64_t b_steps = packed_steps(kOperand<T>, packed_contracted);
  panel_product()(PanelProduct{.operands = kOperand<T>,
                               .a = reinterpret_cast<const uint32_t*>(a),
                               .a_row_stride = lda / kPerWord<T>,
                               .a_step_stride = 1,
                               .rows = rows,
                               .b = packed,
                               .b_panel_stride = b_steps * kPanelColumns,
                               .panels = packed_panels(columns),
                               .steps = packed_steps(kOperand<T>, contracted),
                               .c = c,
                               .c_row_stride = ldc,
                               .c_is_bfloat16 = std::is_same_v<Output, bfloat16>,
                               .accumulate = accumulate,
                               .columns = columns});
}

// C[columns of A, columns of B] += A^T * B for two operands packed along the same contracted rows.
inline void transposed_product(float* c, int64_t ldc, OperandType type, const uint32_t* packed_a, int64_t a_columns,
                               const uint32_t* packed_b, int64_t b_columns, int64_t contracted) {
  const int64_t steps = packed_steps(type, contracted);
  for (int64_t first = 0; first < a_columns; first += kPanelColumns) {
    panel_product()(PanelProduct{.operands = type,
                                 .a = packed_a + first * steps,
                                 .a_row_stride = 1,
                                 .a_step_stride = kPanelColumns,
                                 .rows = std::min<int64_t>(kPanelColumns, a_columns - first),
                                 .b = packed_b,
                                 .b_panel_stride = steps * kPanelColumns,
                                 .panels = packed_panels(b_columns),
                                 .steps = steps,
                                 .c = c + first * ldc,
                                 .c_row_stride = ldc,
                                 .c_is_bfloat16 = false,
                                 .accumulate = true,
                                 .columns = b_columns});
  }
}

}  // namespace deeptitan::cpu

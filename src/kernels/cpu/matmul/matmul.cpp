#include "kernels/cpu/matmul/matmul.h"

#include <algorithm>
#include <type_traits>

#include <omp.h>

#include "core/error.h"

namespace deeptitan::cpu {
namespace {

// Rows of A that one task holds in its second-level cache while it walks over the panels of B.
constexpr int64_t kRowChunk = 64;
// A product below this many multiply-adds is not worth waking other threads for.
constexpr int64_t kParallelThreshold = 1 << 15;

template <typename T>
constexpr OperandType operand_type() {
  return std::is_same_v<T, bfloat16> ? OperandType::kBfloat16 : OperandType::kFloat;
}

template <typename T>
int64_t words(int64_t elements) {
  return elements / static_cast<int64_t>(sizeof(uint32_t) / sizeof(T));
}

template <typename T>
const uint32_t* as_words(const T* data) {
  return reinterpret_cast<const uint32_t*>(data);
}

template <typename Input, typename Output>
PanelProduct describe(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b, int64_t contracted,
                      int64_t columns) {
  DT_CHECK((std::is_same_v<Input, float>) || (contracted % 2 == 0 && lda % 2 == 0),
           "a bf16 product needs an even contracted length and leading stride, found {} and {}", contracted, lda);
  const int64_t steps = packed_steps(operand_type<Input>(), contracted);
  return PanelProduct{.operands = operand_type<Input>(),
                      .a = as_words(a),
                      .a_row_stride = words<Input>(lda),
                      .a_step_stride = 1,
                      .rows = 0,
                      .b = packed_b,
                      .b_panel_stride = steps * kPanelColumns,
                      .panels = packed_panels(columns),
                      .steps = steps,
                      .c = c.data,
                      .c_row_stride = c.ld,
                      .c_is_bfloat16 = std::is_same_v<Output, bfloat16>,
                      .accumulate = c.accumulate,
                      .columns = columns};
}

// The part of `whole` that covers rows [row, row + rows) and panels [panel, panel + panels).
template <typename Output>
PanelProduct part(const PanelProduct& whole, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  PanelProduct p = whole;
  p.a += row * whole.a_row_stride;
  p.rows = rows;
  p.b += panel * whole.b_panel_stride;
  p.panels = panels;
  p.c = static_cast<Output*>(whole.c) + row * whole.c_row_stride + panel * kPanelColumns;
  p.columns = std::min(whole.columns - panel * kPanelColumns, panels * kPanelColumns);
  return p;
}

// Panels a task takes, so that there are a few tasks a thread; even, for the two-panel tile of a single row.
int64_t panels_per_task(int64_t panels, int64_t row_chunks) {
  const int64_t wanted_tasks = 4 * omp_get_max_threads();
  const int64_t tasks_a_chunk = std::max<int64_t>(1, wanted_tasks / std::max<int64_t>(1, row_chunks));
  const int64_t count = (panels + tasks_a_chunk - 1) / tasks_a_chunk;
  return std::max<int64_t>(2, (count + 1) / 2 * 2);
}

}  // namespace

template <typename Input, typename Output>
void matmul(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b, int64_t rows,
            int64_t contracted, int64_t columns) {
  if (rows == 0 || columns == 0) return;
  const PanelProduct whole = describe(c, a, lda, packed_b, contracted, columns);
  const PanelProductFunction run = panel_product();
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  const int64_t group = panels_per_task(whole.panels, chunks);
  const int64_t groups = (whole.panels + group - 1) / group;
#pragma omp parallel for schedule(dynamic) if (rows * contracted * columns > kParallelThreshold)
  for (int64_t task = 0; task < chunks * groups; ++task) {
    const int64_t row = task / groups * kRowChunk;
    const int64_t panel = task % groups * group;
    run(part<Output>(whole, row, std::min(kRowChunk, rows - row), panel, std::min(group, whole.panels - panel)));
  }
}

template <typename Input, typename Output>
void grouped_matmul(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b,
                    const int32_t* group_offset, int64_t groups, int64_t contracted, int64_t columns) {
  const int64_t rows = group_offset[groups] - group_offset[0];
  if (rows == 0 || columns == 0) return;
  const PanelProduct whole = describe(c, a, lda, packed_b, contracted, columns);
  const PanelProductFunction run = panel_product();
  const int64_t group_words = packed_words(operand_type<Input>(), contracted, columns);
  // Tasks are (group, panel range); each walks over its group's rows in chunks.
  const int64_t busy = std::min(groups, rows);
  const int64_t share = panels_per_task(whole.panels, busy);
  const int64_t shares = (whole.panels + share - 1) / share;
#pragma omp parallel for schedule(dynamic) if (rows * contracted * columns > kParallelThreshold)
  for (int64_t task = 0; task < groups * shares; ++task) {
    const int64_t g = task / shares;
    const int64_t panel = task % shares * share;
    PanelProduct p = whole;
    p.b = packed_b + g * group_words;
    for (int64_t row = group_offset[g]; row < group_offset[g + 1]; row += kRowChunk) {
      run(part<Output>(p, row, std::min<int64_t>(kRowChunk, group_offset[g + 1] - row), panel,
                       std::min(share, whole.panels - panel)));
    }
  }
}

int64_t weight_gradient_workspace_words(int64_t rows, int64_t groups, int64_t out_columns, int64_t in_columns) {
  // fp32 is the larger case: a step a row; bf16 pads each group to a pair of rows.
  return (rows + groups) * kPanelColumns * (packed_panels(out_columns) + packed_panels(in_columns));
}

template <typename Input>
void weight_gradient(float* d_weight, const Input* d_out, int64_t ld_out, const Input* x, int64_t ld_x, int64_t rows,
                     int64_t out_columns, int64_t in_columns, uint32_t* workspace) {
  const int32_t offset[2] = {0, static_cast<int32_t>(rows)};
  grouped_weight_gradient(d_weight, d_out, ld_out, x, ld_x, offset, 1, out_columns, in_columns, workspace);
}

template <typename Input>
void grouped_weight_gradient(float* d_weight, const Input* d_out, int64_t ld_out, const Input* x, int64_t ld_x,
                             const int32_t* group_offset, int64_t groups, int64_t out_columns, int64_t in_columns,
                             uint32_t* workspace) {
  const int64_t rows = group_offset[groups] - group_offset[0];
  if (rows == 0) return;
  constexpr OperandType kType = operand_type<Input>();
  const int64_t out_panels = packed_panels(out_columns);
  const int64_t in_panels = packed_panels(in_columns);
  // Group g's packed panels start `first_row(g)` steps in: an upper bound of the steps of the groups before it.
  const auto first_step = [&](int64_t g) { return static_cast<int64_t>(group_offset[g] - group_offset[0]) + g; };
  const PanelProductFunction run = panel_product();
  uint32_t* packed_out = workspace;
  uint32_t* packed_in = workspace + (rows + groups) * kPanelColumns * out_panels;

#pragma omp parallel if (rows * out_columns * in_columns > kParallelThreshold)
  {
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < groups * (out_panels + in_panels); ++task) {
      const int64_t g = task / (out_panels + in_panels);
      const int64_t count = group_offset[g + 1] - group_offset[g];
      if (count == 0) continue;
      const int64_t steps = packed_steps(kType, count);
      int64_t panel = task % (out_panels + in_panels);
      const bool is_out = panel < out_panels;
      if (!is_out) panel -= out_panels;
      const int64_t column = panel * kPanelColumns;
      const int64_t panels = is_out ? out_panels : in_panels;
      uint32_t* packed = (is_out ? packed_out : packed_in) + (first_step(g) * panels + panel * steps) * kPanelColumns;
      const int64_t ld = is_out ? ld_out : ld_x;
      const Input* source = (is_out ? d_out : x) + group_offset[g] * ld + column;
      pack_direct(packed, source, ld, count,
                  std::min<int64_t>(kPanelColumns, (is_out ? out_columns : in_columns) - column), kType,
                  /*parallel=*/false);
    }
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < groups * out_panels; ++task) {
      const int64_t g = task / out_panels;
      const int64_t panel = task % out_panels;
      const int64_t count = group_offset[g + 1] - group_offset[g];
      if (count == 0) continue;
      const int64_t steps = packed_steps(kType, count);
      const int64_t out_row = panel * kPanelColumns;
      run(PanelProduct{.operands = kType,
                       .a = packed_out + (first_step(g) * out_panels + panel * steps) * kPanelColumns,
                       .a_row_stride = 1,
                       .a_step_stride = kPanelColumns,
                       .rows = std::min<int64_t>(kPanelColumns, out_columns - out_row),
                       .b = packed_in + first_step(g) * in_panels * kPanelColumns,
                       .b_panel_stride = steps * kPanelColumns,
                       .panels = in_panels,
                       .steps = steps,
                       .c = d_weight + (g * out_columns + out_row) * in_columns,
                       .c_row_stride = in_columns,
                       .c_is_bfloat16 = false,
                       .accumulate = true,
                       .columns = in_columns});
    }
  }
}

#define DT_INSTANTIATE(Input, Output)                                                                                 \
  template void matmul(MatmulOutput<Output>, const Input*, int64_t, const uint32_t*, int64_t, int64_t, int64_t);      \
  template void grouped_matmul(MatmulOutput<Output>, const Input*, int64_t, const uint32_t*, const int32_t*, int64_t, \
                               int64_t, int64_t);
DT_INSTANTIATE(float, float)
DT_INSTANTIATE(bfloat16, bfloat16)
DT_INSTANTIATE(bfloat16, float)
DT_INSTANTIATE(float, bfloat16)
#undef DT_INSTANTIATE

#define DT_INSTANTIATE(Input)                                                                                          \
  template void weight_gradient(float*, const Input*, int64_t, const Input*, int64_t, int64_t, int64_t, int64_t,       \
                                uint32_t*);                                                                            \
  template void grouped_weight_gradient(float*, const Input*, int64_t, const Input*, int64_t, const int32_t*, int64_t, \
                                        int64_t, int64_t, uint32_t*);
DT_INSTANTIATE(float)
DT_INSTANTIATE(bfloat16)
#undef DT_INSTANTIATE

}  // namespace deeptitan::cpu

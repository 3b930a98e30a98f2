#include "kernels/cpu/matmul/matmul.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include <omp.h>

#include "core/error.h"

namespace deeptitan::cpu {
namespace {

// Words of A that one task holds in its second-level cache while it walks over the panels of B, and the fewest and most
// rows that this is taken to be.
constexpr int64_t kChunkWords = 1 << 15;
constexpr int64_t kFewestRows = 64;
constexpr int64_t kMostRows = 512;
// A product below this many multiply-adds is not worth waking other threads for.
constexpr int64_t kParallelThreshold = 1 << 15;
// Words of a right operand that are made from its other layout before they are multiplied with all rows.
constexpr int64_t kRepackWords = 1 << 21;
// Multiply-adds of a task that is long against its start and short enough for threads to end together.
constexpr int64_t kTaskWork = 1 << 21;

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

// Rows of A that a task takes.
int64_t rows_per_task(int64_t steps) {
  return std::clamp(kChunkWords / std::max<int64_t>(1, steps) / kTileRows * kTileRows, kFewestRows, kMostRows);
}

// Panels a task takes, when something else already cuts `work` multiply-adds into `parts`: a few tasks a thread, and
// more of them where each still is worth its start. Even, for the two-panel tile of a single row.
int64_t panels_per_task(int64_t panels, int64_t parts, int64_t work) {
  const int64_t threads = omp_get_max_threads();
  const int64_t wanted = std::clamp(work / kTaskWork, 4 * threads, 16 * threads);
  const int64_t tasks_a_part = std::max<int64_t>(1, wanted / std::max<int64_t>(1, parts));
  const int64_t count = (panels + tasks_a_part - 1) / tasks_a_part;
  return std::max<int64_t>(2, (count + 1) / 2 * 2);
}

// Rows of all groups, without padding.
int64_t rows_of_all(const GroupRows& rows) {
  return std::accumulate(rows.count, rows.count + rows.groups, int64_t{0});
}

}  // namespace

template <typename Input, typename Output>
void matmul(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b, int64_t rows,
            int64_t contracted, int64_t columns) {
  if (rows == 0 || columns == 0) return;
  const PanelProduct whole = describe(c, a, lda, packed_b, contracted, columns);
  const PanelProductFunction run = panel_product();
  const int64_t chunk = rows_per_task(whole.steps);
  const int64_t chunks = (rows + chunk - 1) / chunk;
  const int64_t group = panels_per_task(whole.panels, chunks, rows * contracted * columns);
  const int64_t groups = (whole.panels + group - 1) / group;
#pragma omp parallel for schedule(dynamic) if (rows * contracted * columns > kParallelThreshold)
  for (int64_t task = 0; task < chunks * groups; ++task) {
    const int64_t row = task / groups * chunk;
    const int64_t panel = task % groups * group;
    run(part<Output>(whole, row, std::min(chunk, rows - row), panel, std::min(group, whole.panels - panel)));
  }
}

template <typename Input, typename Output>
void grouped_matmul(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b,
                    const GroupRows& group_rows, int64_t contracted, int64_t columns) {
  const int64_t groups = group_rows.groups;
  const int64_t rows = rows_of_all(group_rows);
  if (rows == 0 || columns == 0) return;
  const PanelProduct whole = describe(c, a, lda, packed_b, contracted, columns);
  const PanelProductFunction run = panel_product();
  const int64_t group_words = packed_words(operand_type<Input>(), contracted, columns);
  // Tasks are (group, panel range); each walks over its group's rows in chunks.
  const int64_t chunk = rows_per_task(whole.steps);
  const int64_t busy = std::min(groups, rows);
  const int64_t share = panels_per_task(whole.panels, busy, rows * contracted * columns);
  const int64_t shares = (whole.panels + share - 1) / share;
#pragma omp parallel for schedule(dynamic) if (rows * contracted * columns > kParallelThreshold)
  for (int64_t task = 0; task < groups * shares; ++task) {
    const int64_t g = task / shares;
    const int64_t panel = task % shares * share;
    PanelProduct p = whole;
    p.b = packed_b + g * group_words;
    const int64_t end = group_rows.first[g] + group_rows.count[g];
    for (int64_t row = group_rows.first[g]; row < end; row += chunk) {
      run(part<Output>(p, row, std::min(chunk, end - row), panel, std::min(share, whole.panels - panel)));
    }
  }
}

namespace {

// Panels that are made at once from the other layout: as many as a last-level cache holds beside the rows.
int64_t panels_at_once(int64_t panels, int64_t panel_words) {
  return std::clamp<int64_t>(kRepackWords / std::max<int64_t>(1, panel_words), 1, panels);
}

}  // namespace

int64_t transposed_workspace_words(OperandType type, int64_t contracted, int64_t columns) {
  const int64_t panel_words = packed_steps(type, contracted) * kPanelColumns;
  return columns == 0 ? 0 : panels_at_once(packed_panels(columns), panel_words) * panel_words;
}

template <typename Input, typename Output>
void matmul_transposed(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_bt, int64_t rows,
                       int64_t contracted, int64_t columns, uint32_t* workspace) {
  if (rows == 0 || columns == 0) return;
  constexpr OperandType kType = operand_type<Input>();
  const int64_t panel_words = packed_steps(kType, contracted) * kPanelColumns;
  const int64_t panels = packed_panels(columns);
  const int64_t at_once = panels_at_once(panels, panel_words);
  for (int64_t first = 0; first < panels; first += at_once) {
    const int64_t count = std::min(at_once, panels - first);
    const int64_t column = first * kPanelColumns;
#pragma omp parallel for schedule(static) if (count * panel_words > kParallelThreshold)
    for (int64_t p = 0; p < count; ++p) {
      repack_transposed(workspace + p * panel_words, packed_bt, contracted, columns, first + p, 1, kType);
    }
    matmul(MatmulOutput<Output>{c.data + column, c.ld, c.accumulate}, a, lda, workspace, rows, contracted,
           std::min(columns - column, count * kPanelColumns));
  }
}

template <typename Input, typename Output>
void grouped_matmul_transposed(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_bt,
                               const GroupRows& rows, int64_t contracted, int64_t columns, uint32_t* workspace) {
  const int64_t group_words = packed_words(operand_type<Input>(), columns, contracted);
  for (int64_t g = 0; g < rows.groups; ++g) {
    const int64_t row = rows.first[g];
    matmul_transposed(MatmulOutput<Output>{c.data + row * c.ld, c.ld, c.accumulate}, a + row * lda, lda,
                      packed_bt + g * group_words, rows.count[g], contracted, columns, workspace);
  }
}

int64_t weight_gradient_workspace_words(int64_t rows, int64_t groups, int64_t out_columns, int64_t in_columns) {
  // fp32 is the larger case: a step a row; bf16 pads each group to a pair of rows.
  return (rows + groups) * kPanelColumns * (packed_panels(out_columns) + packed_panels(in_columns));
}

template <typename Input>
void weight_gradient(float* d_weight, const Input* d_out, int64_t ld_out, const Input* x, int64_t ld_x, int64_t rows,
                     int64_t out_columns, int64_t in_columns, uint32_t* workspace, bool accumulate) {
  const int32_t first = 0;
  const auto count = static_cast<int32_t>(rows);
  grouped_weight_gradient(d_weight, d_out, ld_out, x, ld_x, GroupRows{&first, &count, 1}, out_columns, in_columns,
                          workspace, accumulate);
}

template <typename Input>
void grouped_weight_gradient(float* d_weight, const Input* d_out, int64_t ld_out, const Input* x, int64_t ld_x,
                             const GroupRows& group_rows, int64_t out_columns, int64_t in_columns, uint32_t* workspace,
                             bool accumulate) {
  const int32_t* group_first = group_rows.first;
  const int32_t* group_count = group_rows.count;
  const int64_t groups = group_rows.groups;
  const int64_t rows = rows_of_all(group_rows);
  if (rows == 0) {
    if (!accumulate) std::fill_n(d_weight, groups * out_columns * in_columns, 0.0f);
    return;
  }
  constexpr OperandType kType = operand_type<Input>();
  const int64_t out_panels = packed_panels(out_columns);
  const int64_t in_panels = packed_panels(in_columns);
  // Group g's packed panels start `first_step(g)` steps in: an upper bound of the steps of the groups before it.
  const auto first_step = [&](int64_t g) { return static_cast<int64_t>(group_first[g] - group_first[0]) + g; };
  const int64_t longest = *std::max_element(group_count, group_count + groups);
  const PanelProductFunction run = panel_product();
  uint32_t* packed_out = workspace;
  uint32_t* packed_in = workspace + (first_step(groups - 1) + group_count[groups - 1] + 1) * kPanelColumns * out_panels;

  // Both operands are packed in blocks of rows; then a task takes one panel of outputs and a range of inputs.
  const int64_t share = panels_per_task(in_panels, groups * out_panels, rows * out_columns * in_columns);
  const int64_t shares = (in_panels + share - 1) / share;
  const int64_t blocks = pack_direct_blocks(kType, longest);

#pragma omp parallel if (rows * out_columns * in_columns > kParallelThreshold)
  {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < groups * blocks; ++task) {
      const int64_t g = task / blocks;
      const int64_t block = task % blocks;
      const int64_t count = group_count[g];
      if (block >= pack_direct_blocks(kType, count)) continue;
      const int64_t row = group_first[g] + block * pack_block_rows(kType);
      pack_direct_block(packed_out + first_step(g) * out_panels * kPanelColumns, d_out + row * ld_out, ld_out, count,
                        out_columns, kType, block);
      pack_direct_block(packed_in + first_step(g) * in_panels * kPanelColumns, x + row * ld_x, ld_x, count, in_columns,
                        kType, block);
    }
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < groups * out_panels * shares; ++task) {
      const int64_t g = task / (out_panels * shares);
      const int64_t out_panel = task / shares % out_panels;
      const int64_t in_panel = task % shares * share;
      const int64_t count = group_count[g];
      const int64_t steps = packed_steps(kType, count);
      const int64_t out_row = out_panel * kPanelColumns;
      const int64_t in_column = in_panel * kPanelColumns;
      const int64_t out_count = std::min<int64_t>(kPanelColumns, out_columns - out_row);
      const int64_t in_count = std::min(share * kPanelColumns, in_columns - in_column);
      float* c = d_weight + (g * out_columns + out_row) * in_columns + in_column;
      if (count == 0) {
        for (int64_t row = 0; row < out_count && !accumulate; ++row) std::fill_n(c + row * in_columns, in_count, 0.0f);
        continue;
      }
      run(PanelProduct{.operands = kType,
                       .a = packed_out + (first_step(g) * out_panels + out_panel * steps) * kPanelColumns,
                       .a_row_stride = 1,
                       .a_step_stride = kPanelColumns,
                       .rows = out_count,
                       .b = packed_in + (first_step(g) * in_panels + in_panel * steps) * kPanelColumns,
                       .b_panel_stride = steps * kPanelColumns,
                       .panels = std::min(share, in_panels - in_panel),
                       .steps = steps,
                       .c = c,
                       .c_row_stride = in_columns,
                       .c_is_bfloat16 = false,
                       .accumulate = accumulate,
                       .columns = in_count});
    }
  }
}

template <typename Input, typename Output>
void matmul_by_head(Output* c, int64_t ldc, int64_t c_head_stride, const Input* a, int64_t lda, int64_t a_head_stride,
                    const uint32_t* packed_b, int64_t heads, int64_t rows, int64_t contracted, int64_t columns) {
  const int64_t words = packed_words(operand_type<Input>(), contracted, columns);
#pragma omp parallel for schedule(dynamic)
  for (int64_t h = 0; h < heads; ++h) {
    matmul(MatmulOutput<Output>{c + h * c_head_stride, ldc, false}, a + h * a_head_stride, lda, packed_b + h * words,
           rows, contracted, columns);
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): a type stands in no parentheses
#define DT_INSTANTIATE(Input, Output)                                                                               \
  template void matmul(MatmulOutput<Output>, const Input*, int64_t, const uint32_t*, int64_t, int64_t, int64_t);    \
  template void grouped_matmul(MatmulOutput<Output>, const Input*, int64_t, const uint32_t*, const GroupRows&,      \
                               int64_t, int64_t);                                                                   \
  template void matmul_transposed(MatmulOutput<Output>, const Input*, int64_t, const uint32_t*, int64_t, int64_t,   \
                                  int64_t, uint32_t*);                                                              \
  template void grouped_matmul_transposed(MatmulOutput<Output>, const Input*, int64_t, const uint32_t*,             \
                                          const GroupRows&, int64_t, int64_t, uint32_t*);                           \
  template void matmul_by_head(Output*, int64_t, int64_t, const Input*, int64_t, int64_t, const uint32_t*, int64_t, \
                               int64_t, int64_t, int64_t);
DT_INSTANTIATE(float, float)
DT_INSTANTIATE(bfloat16, bfloat16)
DT_INSTANTIATE(bfloat16, float)
DT_INSTANTIATE(float, bfloat16)
#undef DT_INSTANTIATE

#define DT_INSTANTIATE(Input)                                                                                    \
  template void weight_gradient(float*, const Input*, int64_t, const Input*, int64_t, int64_t, int64_t, int64_t, \
                                uint32_t*, bool);                                                                \
  template void grouped_weight_gradient(float*, const Input*, int64_t, const Input*, int64_t, const GroupRows&,  \
                                        int64_t, int64_t, uint32_t*, bool);
DT_INSTANTIATE(float)
DT_INSTANTIATE(bfloat16)
#undef DT_INSTANTIATE
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace deeptitan::cpu

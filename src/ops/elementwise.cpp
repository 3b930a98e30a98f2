#include "ops/elementwise.h"

#include "core/error.h"

namespace deeptitan {
namespace {

// The names that a gated activation's messages say.
struct SwigluNames {
  const char* op;
  const char* gate;
  const char* out;
  const char* d_gate;
};
constexpr SwigluNames kSwiglu{"swiglu", "swiglu: gate", "swiglu: out", ""};
constexpr SwigluNames kGroupedSwiglu{"grouped_swiglu", "grouped_swiglu: gate", "grouped_swiglu: out", ""};
constexpr SwigluNames kSwigluBackward{"swiglu_backward", "swiglu_backward: gate", "swiglu_backward: d_out",
                                      "swiglu_backward: d_gate"};
constexpr SwigluNames kGroupedSwigluBackward{"grouped_swiglu_backward", "grouped_swiglu_backward: gate",
                                             "grouped_swiglu_backward: d_out", "grouped_swiglu_backward: d_gate"};

// `out` is d_out in the backward: a tensor of the activation's own shape, dense.
void check_swiglu(const SwigluNames& names, const Tensor& out, const Tensor& gate, const Tensor& up) {
  check_activation_type(names.gate, gate);
  check_tensor(out, names.out, gate.dtype(), {gate.size(0), gate.size(1)});
  DT_CHECK(gate.same_shape(up) && gate.stride() == up.stride() && gate.dtype() == up.dtype(),
           "{}: gate {} and up {} are not slices of one buffer", names.op, gate.describe(), up.describe());
  check_contiguous(names.op, {out});
}

void check_swiglu_backward(const SwigluNames& names, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                           const Tensor& gate, const Tensor& up) {
  check_swiglu(names, d_out, gate, up);
  check_tensor(d_gate, names.d_gate, gate.dtype(), {gate.size(0), gate.size(1)});
  DT_CHECK(d_gate.same_shape(d_up) && d_gate.stride() == d_up.stride() && d_gate.dtype() == d_up.dtype(),
           "{}: d_gate {} and d_up {} are not slices of one buffer", names.op, d_gate.describe(), d_up.describe());
}

}  // namespace

void add(ExecutionContext& ctx, const Tensor& out, const Tensor& a, const Tensor& b) {
  check_activation_type("add: out", out);
  DT_CHECK(out.same_shape(a) && out.same_shape(b) && out.dtype() == a.dtype() && out.dtype() == b.dtype(),
           "add: expected three tensors of one shape and dtype, found {} = {} + {}", out.describe(), a.describe(),
           b.describe());
  check_contiguous("add", {out, a, b});
  OpScope op(ctx, "add", {&out}, {&a, &b});
  op.run(on_cpu::add, DT_ON_CUDA(add), out, a, b);
}

void convert(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  check_activation_type("convert: out", out);
  check_activation_type("convert: x", x);
  DT_CHECK(out.same_shape(x) && out.rank() == 2, "convert: expected two matrices of one shape, found {} from {}",
           out.describe(), x.describe());
  OpScope op(ctx, "convert", {&out}, {&x});
  op.run(on_cpu::convert, DT_ON_CUDA(convert), out, x);
}

void fill_zero(ExecutionContext& ctx, const Tensor& x) {
  DT_CHECK(x.bytes() % 4 == 0, "fill_zero: expected whole words of four bytes, found {}", x.describe());
  check_contiguous("fill_zero", {x});
  OpScope op(ctx, "fill_zero", {&x}, {});
  op.run(on_cpu::fill_zero, DT_ON_CUDA(fill_zero), x);
}

void swiglu(ExecutionContext& ctx, const Tensor& out, const Tensor& gate, const Tensor& up) {
  check_swiglu(kSwiglu, out, gate, up);
  OpScope op(ctx, kSwiglu.op, {&out}, {&gate, &up});
  op.run(on_cpu::swiglu, DT_ON_CUDA(swiglu), out, gate, up);
}

void grouped_swiglu(ExecutionContext& ctx, const Tensor& out, const Tensor& gate, const Tensor& up,
                    const RowGroups& groups) {
  check_swiglu(kGroupedSwiglu, out, gate, up);
  check_row_groups(kGroupedSwiglu.op, groups, -1, gate.size(0));
  OpScope op(ctx, kGroupedSwiglu.op, {&out}, {&gate, &up, &groups.offsets, &groups.sizes});
  op.only_rows_of(groups);
  op.run(on_cpu::grouped_swiglu, DT_ON_CUDA(grouped_swiglu), out, gate, up, groups);
}

void swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                     const Tensor& gate, const Tensor& up) {
  check_swiglu_backward(kSwigluBackward, d_gate, d_up, d_out, gate, up);
  OpScope op(ctx, kSwigluBackward.op, {&d_gate, &d_up}, {&d_out, &gate, &up});
  op.run(on_cpu::swiglu_backward, DT_ON_CUDA(swiglu_backward), d_gate, d_up, d_out, gate, up);
}

void grouped_swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                             const Tensor& gate, const Tensor& up, const RowGroups& groups) {
  check_swiglu_backward(kGroupedSwigluBackward, d_gate, d_up, d_out, gate, up);
  check_row_groups(kGroupedSwigluBackward.op, groups, -1, gate.size(0));
  OpScope op(ctx, kGroupedSwigluBackward.op, {&d_gate, &d_up}, {&d_out, &gate, &up, &groups.offsets, &groups.sizes});
  op.only_rows_of(groups);
  op.run(on_cpu::grouped_swiglu_backward, DT_ON_CUDA(grouped_swiglu_backward), d_gate, d_up, d_out, gate, up, groups);
}

void embedding(ExecutionContext& ctx, const Tensor& out, const Tensor& table, const Tensor& ids) {
  check_activation_type("embedding: out", out);
  check_activation_type("embedding: table", table);
  DT_CHECK(out.dtype() == DType::kBF16 || table.dtype() == DType::kF32,
           "embedding: a table of bf16 is not read into f32");
  check_tensor(ids, "embedding: ids", DType::kI32, {-1});
  check_tensor(out, "embedding: out", out.dtype(), {ids.size(0), table.size(1)});
  check_contiguous("embedding", {out, table, ids});
  // A row of the table for each token, not the table.
  const auto row_bytes = static_cast<double>(dtype_size(table.dtype()) + dtype_size(out.dtype()));
  OpScope op(ctx, "embedding", {&out}, {&table, &ids}, {.bytes = row_bytes * static_cast<double>(out.numel())});
  op.run(on_cpu::embedding, DT_ON_CUDA(embedding), out, table, ids);
}

void embedding_backward(ExecutionContext& ctx, const Tensor& d_table, const Tensor& d_out, const Tensor& ids) {
  check_activation_type("embedding_backward: d_out", d_out);
  check_tensor(d_table, "embedding_backward: d_table", DType::kF32, {-1, d_out.size(1)});
  check_tensor(ids, "embedding_backward: ids", DType::kI32, {d_out.size(0)});
  check_contiguous("embedding_backward", {d_table, d_out, ids});
  const auto row_bytes = static_cast<double>(dtype_size(d_out.dtype()) + 2 * sizeof(float));
  OpScope op(ctx, "embedding_backward", {&d_table}, {&d_out, &ids},
             {.bytes = row_bytes * static_cast<double>(d_out.numel())});
  op.run(on_cpu::embedding_backward, DT_ON_CUDA(embedding_backward), d_table, d_out, ids);
}

}  // namespace deeptitan

#include "ops/linear.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/bias/bias.h"
#include "kernels/cpu/matmul/matmul.h"
#include "kernels/cpu/matmul/pack_weights.h"
#include "kernels/cpu/matmul/panel_kernel.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {
namespace {

cpu::OperandType operand_type(DType dtype) {
  DT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "the CPU multiplies f32 and bf16, not {}", dtype_name(dtype));
  return dtype == DType::kBF16 ? cpu::OperandType::kBfloat16 : cpu::OperandType::kFloat;
}

double product_flops(int64_t rows, const PreparedWeight& weight) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(weight.outputs) * static_cast<double>(weight.inputs);
}

// Calls body with null pointers of the types of the operands and of the result.
template <typename Body>
void for_product_types(const char* op, const Tensor& operand, const Tensor& result, const Body& body) {
  for_activation_type(op, operand,
                      [&](auto* in) { for_activation_type(op, result, [&](auto* out) { body(in, out); }); });
}

bool derived(const PreparedWeight& weight) {
  return weight.backward_layout == BackwardLayout::kDerived;
}

// Room for the panels of the backward's operand that are made at a time.
Tensor take_derived(ArenaScope& workspace, const PreparedWeight& weight) {
  return workspace.take(DType::kI32,
                        {cpu::transposed_workspace_words(operand_type(weight.operand), weight.outputs, weight.inputs)});
}

// out (+)= x * B for a packed B [contracted, columns].
void packed_product(ExecutionContext& ctx, const char* name, const Tensor& out, const Tensor& x, const Tensor& packed,
                    const PreparedWeight& weight, int64_t contracted, int64_t columns, bool accumulate) {
  const int64_t rows = x.size(0);
  check_tensor(x, "x", weight.operand, {rows, contracted});
  check_tensor(out, "out", out.dtype(), {rows, columns});
  DT_CHECK(packed.defined() && weight.groups == 1, "{}: the weight [{}, {}] was not prepared for it", name,
           weight.outputs, weight.inputs);
  OpScope op(ctx, name, product_flops(rows, weight));
  DT_LEAVE_FOR_CUDA(product, out, x, weight, &packed == &weight.backward_input, Tensor(), accumulate);
  if (!op.launch()) return;
  for_product_types(name, x, out, [&](auto* in_type, auto* out_type) {
    using In = Element<decltype(in_type)>;
    using Out = Element<decltype(out_type)>;
    cpu::matmul(cpu::MatmulOutput<Out>{out.host<Out>(), out.stride(), accumulate}, x.host<In>(), x.stride(),
                packed.host<uint32_t>(), rows, contracted, columns);
  });
  op.check({out});
}

void grouped_product(ExecutionContext& ctx, const char* name, const Tensor& out, const Tensor& x, const Tensor& packed,
                     const PreparedWeight& weight, const Tensor& group_offset, int64_t contracted, int64_t columns,
                     bool accumulate) {
  const int64_t rows = x.size(0);
  check_tensor(x, "x", weight.operand, {rows, contracted});
  check_tensor(out, "out", out.dtype(), {rows, columns});
  check_tensor(group_offset, "group_offset", DType::kI32, {weight.groups + 1});
  DT_CHECK(packed.defined(), "{}: the weight [{}, {}, {}] was not prepared for it", name, weight.groups, weight.outputs,
           weight.inputs);
  OpScope op(ctx, name, product_flops(rows, weight));
  DT_LEAVE_FOR_CUDA(product, out, x, weight, &packed == &weight.backward_input, group_offset, accumulate);
  if (!op.launch()) return;
  for_product_types(name, x, out, [&](auto* in_type, auto* out_type) {
    using In = Element<decltype(in_type)>;
    using Out = Element<decltype(out_type)>;
    cpu::grouped_matmul(cpu::MatmulOutput<Out>{out.host<Out>(), out.stride(), accumulate}, x.host<In>(), x.stride(),
                        packed.host<uint32_t>(), group_offset.host<int32_t>(), weight.groups, contracted, columns);
  });
  op.check({out});
}

// d_x (+)= d_out W from the layout for x W^T; over groups where there are offsets.
void derived_product(ExecutionContext& ctx, const char* name, const Tensor& d_x, const Tensor& d_out,
                     const PreparedWeight& weight, const Tensor* group_offset, bool accumulate) {
  const int64_t rows = d_out.size(0);
  check_tensor(d_out, "d_out", weight.operand, {rows, weight.outputs});
  check_tensor(d_x, "d_x", d_x.dtype(), {rows, weight.inputs});
  DT_CHECK(group_offset != nullptr || weight.groups == 1, "{}: a weight of {} groups without their rows", name,
           weight.groups);
  if (group_offset != nullptr) check_tensor(*group_offset, "group_offset", DType::kI32, {weight.groups + 1});
  OpScope op(ctx, name, product_flops(rows, weight));
  DT_LEAVE_FOR_CUDA(product, d_x, d_out, weight, true, group_offset == nullptr ? Tensor() : *group_offset, accumulate);
  ArenaScope workspace(*ctx.workspace);
  const Tensor panels = take_derived(workspace, weight);
  if (!op.launch()) return;
  for_product_types(name, d_out, d_x, [&](auto* in_type, auto* out_type) {
    using In = Element<decltype(in_type)>;
    using Out = Element<decltype(out_type)>;
    const cpu::MatmulOutput<Out> c{d_x.host<Out>(), d_x.stride(), accumulate};
    const uint32_t* forward = weight.forward.host<uint32_t>();
    if (group_offset == nullptr) {
      cpu::matmul_transposed(c, d_out.host<In>(), d_out.stride(), forward, rows, weight.outputs, weight.inputs,
                             panels.host<uint32_t>());
    } else {
      cpu::grouped_matmul_transposed(c, d_out.host<In>(), d_out.stride(), forward, group_offset->host<int32_t>(),
                                     weight.groups, weight.outputs, weight.inputs, panels.host<uint32_t>());
    }
  });
  op.check({d_x});
}

}  // namespace

bool bfloat16_is_native() {
  return std::string_view(cpu::panel_isa().name) == "avx512_bf16";
}

void plan_prepared_weight(PreparedWeight& weight, Arena& arena) {
#ifdef DT_CUDA
  if (arena.device().kind == DeviceKind::kCuda) return on_cuda::plan_prepared_weight(weight, arena);
#endif
  const cpu::OperandType type = operand_type(weight.operand);
  const int64_t groups = weight.groups;
  weight.forward = {};
  weight.backward_input = {};
  if (weight.for_forward) {
    weight.forward = arena.take(DType::kI32, {groups, cpu::packed_words(type, weight.inputs, weight.outputs)});
  }
  if (weight.backward_layout == BackwardLayout::kKept) {
    weight.backward_input = arena.take(DType::kI32, {groups, cpu::packed_words(type, weight.outputs, weight.inputs)});
  }
}

void prepare_weight(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group, std::span<const Tensor> rows) {
  if (rows.empty() || !(weight.forward.defined() || weight.backward_input.defined())) return;
  const DType stored = rows.front().dtype();
  std::vector<cpu::WeightRows> pieces;
  int64_t total = 0;
  for (const Tensor& piece : rows) {
    check_tensor(piece, "weight", stored, {-1, weight.inputs});
    pieces.push_back({piece.raw(), piece.stride(), piece.size(0)});
    total += piece.size(0);
  }
  const int64_t groups = total / weight.outputs;
  DT_CHECK(total == groups * weight.outputs && rows.size() % groups == 0 && first_group + groups <= weight.groups,
           "prepare_weight: {} matrices of {} rows for groups {} to {} of a weight [{}, {}, {}]", rows.size(), total,
           first_group, first_group + groups - 1, weight.groups, weight.outputs, weight.inputs);
  OpScope op(ctx, "prepare_weight", 0);
  DT_LEAVE_FOR_CUDA(prepare_weight, weight, first_group, rows);
  if (!op.launch()) return;
  const auto group_at = [&](const Tensor& layout) {
    return layout.defined() ? layout.host<uint32_t>() + first_group * layout.stride() : nullptr;
  };
  const cpu::PackedWeights packed{operand_type(weight.operand), weight.outputs, weight.inputs, group_at(weight.forward),
                                  group_at(weight.backward_input)};
  for_activation_type("prepare_weight", rows.front(), [&](auto* element) {
    cpu::pack_weights<Element<decltype(element)>>(packed, pieces.data(), static_cast<int64_t>(rows.size()) / groups,
                                                  groups);
  });
}

void linear(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight, bool accumulate) {
  packed_product(ctx, "linear", out, x, weight.forward, weight, weight.inputs, weight.outputs, accumulate);
}

void linear_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const PreparedWeight& weight,
                           bool accumulate) {
  if (derived(weight)) {
    derived_product(ctx, "linear_backward_input", d_x, d_out, weight, nullptr, accumulate);
    return;
  }
  packed_product(ctx, "linear_backward_input", d_x, d_out, weight.backward_input, weight, weight.outputs, weight.inputs,
                 accumulate);
}

void linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x) {
  const int64_t rows = x.size(0);
  check_tensor(d_out, "d_out", x.dtype(), {rows, d_weight.size(0)});
  check_tensor(d_weight, "d_weight", DType::kF32, {-1, x.size(1)});
  OpScope op(ctx, "linear_backward_weight", 2.0 * static_cast<double>(rows) * static_cast<double>(d_weight.numel()));
  DT_LEAVE_FOR_CUDA(linear_backward_weight, d_weight, d_out, x);
  ArenaScope workspace(*ctx.workspace);
  const Tensor words =
      workspace.take(DType::kI32, {cpu::weight_gradient_workspace_words(rows, 1, d_weight.size(0), d_weight.size(1))});
  if (!op.launch()) return;
  for_activation_type("linear_backward_weight", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::weight_gradient(d_weight.host<float>(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(), rows,
                         d_weight.size(0), d_weight.size(1), words.host<uint32_t>());
  });
  op.check({d_weight});
}

void grouped_linear(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                    const Tensor& group_offset) {
  grouped_product(ctx, "grouped_linear", out, x, weight.forward, weight, group_offset, weight.inputs, weight.outputs,
                  false);
}

void grouped_linear_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out,
                                   const PreparedWeight& weight, const Tensor& group_offset, bool accumulate) {
  if (derived(weight)) {
    derived_product(ctx, "grouped_linear_backward_input", d_x, d_out, weight, &group_offset, accumulate);
    return;
  }
  grouped_product(ctx, "grouped_linear_backward_input", d_x, d_out, weight.backward_input, weight, group_offset,
                  weight.outputs, weight.inputs, accumulate);
}

void grouped_linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                                    const Tensor& group_offset) {
  const int64_t rows = x.size(0);
  const int64_t groups = d_weight.size(0);
  const int64_t n = d_weight.size(1);
  const int64_t k = d_weight.size(2);
  check_tensor(d_out, "d_out", x.dtype(), {rows, n});
  check_tensor(x, "x", x.dtype(), {rows, k});
  check_tensor(group_offset, "group_offset", DType::kI32, {groups + 1});
  OpScope op(ctx, "grouped_linear_backward_weight",
             2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k));
  DT_LEAVE_FOR_CUDA(grouped_linear_backward_weight, d_weight, d_out, x, group_offset);
  ArenaScope workspace(*ctx.workspace);
  const Tensor words = workspace.take(DType::kI32, {cpu::weight_gradient_workspace_words(rows, groups, n, k)});
  if (!op.launch()) return;
  for_activation_type("grouped_linear_backward_weight", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::grouped_weight_gradient(d_weight.host<float>(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(),
                                 group_offset.host<int32_t>(), groups, n, k, words.host<uint32_t>());
  });
  op.check({d_weight});
}

void linear_by_head(ExecutionContext& ctx, const Tensor& out, int64_t out_head_stride, const Tensor& x,
                    int64_t x_head_stride, const PreparedWeight& weight, bool transposed) {
  const int64_t rows = x.size(0);
  const int64_t heads = weight.groups;
  const int64_t contracted = transposed ? weight.outputs : weight.inputs;
  const int64_t columns = transposed ? weight.inputs : weight.outputs;
  const Tensor& packed = transposed ? weight.backward_input : weight.forward;
  DT_CHECK(packed.defined(), "linear_by_head: the weight [{}, {}, {}] was not prepared for it", heads, weight.outputs,
           weight.inputs);
  OpScope op(ctx, "linear_by_head", product_flops(rows * heads, weight));
  DT_LEAVE_FOR_CUDA(linear_by_head, out, out_head_stride, x, x_head_stride, weight, transposed);
  if (!op.launch()) return;
  for_product_types("linear_by_head", x, out, [&](auto* in_type, auto* out_type) {
    using In = Element<decltype(in_type)>;
    using Out = Element<decltype(out_type)>;
#pragma omp parallel for schedule(dynamic)
    for (int64_t h = 0; h < heads; ++h) {
      cpu::matmul(cpu::MatmulOutput<Out>{out.host<Out>() + h * out_head_stride, out.stride(), false},
                  x.host<In>() + h * x_head_stride, x.stride(), packed.host<uint32_t>() + h * packed.stride(), rows,
                  contracted, columns);
    }
  });
}

void add_bias(ExecutionContext& ctx, const Tensor& out, const Tensor& bias) {
  check_tensor(bias, "bias", DType::kF32, {out.size(1)});
  OpScope op(ctx, "add_bias", 0);
  DT_LEAVE_FOR_CUDA(add_bias, out, bias);
  if (!op.launch()) return;
  for_activation_type("add_bias", out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add_bias(out.host<T>(), out.stride(), bias.host<float>(), out.size(0), out.size(1));
  });
  op.check({out});
}

void add_bias_backward(ExecutionContext& ctx, const Tensor& d_bias, const Tensor& d_out) {
  check_tensor(d_bias, "d_bias", DType::kF32, {d_out.size(1)});
  OpScope op(ctx, "add_bias_backward", 0);
  DT_LEAVE_FOR_CUDA(add_bias_backward, d_bias, d_out);
  if (!op.launch()) return;
  for_activation_type("add_bias_backward", d_out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add_bias_backward(d_bias.host<float>(), d_out.host<T>(), d_out.stride(), d_out.size(0), d_out.size(1));
  });
  op.check({d_bias});
}

}  // namespace deeptitan

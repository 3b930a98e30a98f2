#include "ops/linear.h"

#include <vector>

#include "core/error.h"
#include "kernels/cpu/bias/bias.h"
#include "kernels/cpu/matmul/matmul.h"
#include "kernels/cpu/matmul/pack_weights.h"

namespace deeptitan::on_cpu {
namespace {

cpu::OperandType operand_type(WeightFormat format) {
  switch (format) {
    case WeightFormat::kPanelsF32:
      return cpu::OperandType::kFloat;
    case WeightFormat::kPanelsBf16:
      return cpu::OperandType::kBfloat16;
    case WeightFormat::kRowsF32:
    case WeightFormat::kRowsBf16:
    case WeightFormat::kRowsFp8Block128:
    case WeightFormat::kRowsFp8Rowwise:
      break;
  }
  fail("a weight as {} has no panels for the CPU's products", name_of(format));
}

// Calls body with null pointers of the types of the operands and of the result.
template <typename Body>
void for_product_types(const Tensor& operand, const Tensor& result, const Body& body) {
  for_activation_type(operand, [&](auto* in) { for_activation_type(result, [&](auto* out) { body(in, out); }); });
}

}  // namespace

void plan_prepared_weight(PreparedWeight& weight, Arena& arena) {
  const cpu::OperandType type = operand_type(weight.format);
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

void prepare_weight(ExecutionContext& /*ctx*/, PreparedWeight& weight, int64_t first_group,
                    std::span<const Tensor> rows) {
  std::vector<cpu::WeightRows> pieces;
  int64_t total = 0;
  for (const Tensor& piece : rows) {
    pieces.push_back({piece.raw(), piece.stride(), piece.size(0)});
    total += piece.size(0);
  }
  const int64_t groups = total / weight.outputs;
  const auto group_at = [&](const Tensor& layout) {
    return layout.defined() ? layout.host<uint32_t>() + first_group * layout.stride() : nullptr;
  };
  const cpu::PackedWeights packed{operand_type(weight.format), weight.outputs, weight.inputs, group_at(weight.forward),
                                  group_at(weight.backward_input)};
  for_activation_type(rows.front(), [&](auto* element) {
    cpu::pack_weights<Element<decltype(element)>>(packed, pieces.data(), static_cast<int64_t>(pieces.size()) / groups,
                                                  groups);
  });
}

void product(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight, bool backward,
             const RowGroups& groups, bool accumulate) {
  // A derived backward makes its operand from that of the forward, some panels at a time.
  const bool derived = backward && weight.backward_layout == BackwardLayout::kDerived;
  const int64_t contracted = backward ? weight.outputs : weight.inputs;
  const int64_t columns = backward ? weight.inputs : weight.outputs;
  ArenaScope workspace(*ctx.workspace);
  Tensor panels;
  if (derived) {
    panels = workspace.take(
        DType::kI32, {cpu::transposed_workspace_words(operand_type(weight.format), weight.outputs, weight.inputs)});
  }
  if (ctx.planning) return;
  const uint32_t* packed = (backward && !derived ? weight.backward_input : weight.forward).host<uint32_t>();
  const GroupRows of_groups = group_rows(groups);
  for_product_types(x, out, [&](auto* in_type, auto* out_type) {
    using In = Element<decltype(in_type)>;
    using Out = Element<decltype(out_type)>;
    const cpu::MatmulOutput<Out> to{out.host<Out>(), out.stride(), accumulate};
    const In* rows = x.host<In>();
    if (derived && groups.defined()) {
      cpu::grouped_matmul_transposed(to, rows, x.stride(), packed, of_groups, contracted, columns,
                                     panels.host<uint32_t>());
    } else if (derived) {
      cpu::matmul_transposed(to, rows, x.stride(), packed, x.size(0), contracted, columns, panels.host<uint32_t>());
    } else if (groups.defined()) {
      cpu::grouped_matmul(to, rows, x.stride(), packed, of_groups, contracted, columns);
    } else {
      cpu::matmul(to, rows, x.stride(), packed, x.size(0), contracted, columns);
    }
  });
}

void linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                            bool accumulate) {
  const int64_t rows = x.size(0);
  ArenaScope workspace(*ctx.workspace);
  const Tensor words =
      workspace.take(DType::kI32, {cpu::weight_gradient_workspace_words(rows, 1, d_weight.size(0), d_weight.size(1))});
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::weight_gradient(d_weight.host<float>(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(), rows,
                         d_weight.size(0), d_weight.size(1), words.host<uint32_t>(), accumulate);
  });
}

void grouped_linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                                    const RowGroups& groups, bool accumulate) {
  const int64_t n = d_weight.size(1);
  const int64_t k = d_weight.size(2);
  ArenaScope workspace(*ctx.workspace);
  const Tensor words =
      workspace.take(DType::kI32, {cpu::weight_gradient_workspace_words(x.size(0), groups.groups(), n, k)});
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::grouped_weight_gradient(d_weight.host<float>(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(),
                                 group_rows(groups), n, k, words.host<uint32_t>(), accumulate);
  });
}

void grouped_linear_backward_weight_of_both(ExecutionContext& ctx, const Tensor& d_weight, const GroupedOperands& first,
                                            const GroupedOperands& second, bool accumulate) {
  on_cpu::grouped_linear_backward_weight(ctx, d_weight, first.d_out, first.x, first.groups, accumulate);
  on_cpu::grouped_linear_backward_weight(ctx, d_weight, second.d_out, second.x, second.groups, true);
}

void add_bias(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& bias) {
  for_activation_type(out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add_bias(out.host<T>(), out.stride(), bias.host<float>(), out.size(0), out.size(1));
  });
}

void add_bias_backward(ExecutionContext& /*ctx*/, const Tensor& d_bias, const Tensor& d_out, bool accumulate) {
  for_activation_type(d_out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add_bias_backward(d_bias.host<float>(), d_out.host<T>(), d_out.stride(), d_out.size(0), d_out.size(1),
                           accumulate);
  });
}

}  // namespace deeptitan::on_cpu

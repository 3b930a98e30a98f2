#include "ops/linear.h"

#include <algorithm>
#include <string_view>

#include "core/error.h"
#include "kernels/cpu/matmul/panel_kernel.h"

namespace deeptitan {
namespace {

double product_flops(int64_t rows, int64_t outputs, int64_t inputs) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(outputs) * static_cast<double>(inputs);
}

// The names that a product's messages say.
struct ProductNames {
  const char* op;
  const char* out;
  const char* x;
};
constexpr ProductNames kLinear{"linear", "linear: out", "linear: x"};
constexpr ProductNames kLinearBackward{"linear_backward_input", "linear_backward_input: d_x",
                                       "linear_backward_input: d_out"};
constexpr ProductNames kGrouped{"grouped_linear", "grouped_linear: out", "grouped_linear: x"};
constexpr ProductNames kGroupedBackward{"grouped_linear_backward_input", "grouped_linear_backward_input: d_x",
                                        "grouped_linear_backward_input: d_out"};

std::string text_of(Device device) {
  return device.kind == DeviceKind::kCuda ? fmt::format("cuda:{}", device.index) : "the CPU";
}

void check_strategy(const PreparedWeight& weight, Device device) {
  const GroupedGemmStrategy strategy = *weight.strategy;
  const std::string_view name = grouped_gemm_strategy_name(strategy);
  const std::vector<GroupedGemmStrategy> available = expert_strategies(device);
  DT_CHECK_USAGE(std::find(available.begin(), available.end(), strategy) != available.end(),
                 "experts' products by {} cannot run on {}; use {}{}", name, text_of(device),
                 available.empty() ? "auto" : "auto or one of: ", grouped_gemm_strategy_names(available));
  DT_CHECK_USAGE(weight.activations == DType::kBF16,
                 "experts' products by {} take activations in bf16, not {}; use dtype bf16, or auto for the experts",
                 name, dtype_name(weight.activations));
  const int64_t multiple = is_fp8(weight_format(device, weight.activations, strategy)) ? 16 : 8;
  DT_CHECK_USAGE(weight.outputs % multiple == 0 && weight.inputs % multiple == 0,
                 "experts' products by {} need widths that are multiples of {}, and the model's weights are [{}, {}]; "
                 "use auto",
                 name, multiple, weight.outputs, weight.inputs);
}

// A product with a weight that has been prepared for it, whole or by groups of rows.
void run_product(ExecutionContext& ctx, const ProductNames& names, const Tensor& out, const Tensor& x,
                 const PreparedWeight& weight, bool backward, const RowGroups& groups, bool accumulate) {
  const int64_t rows = x.size(0);
  check_weight_product(names.op, weight.format, x, out);
  check_tensor(x, names.x, x.dtype(), {rows, backward ? weight.outputs : weight.inputs});
  check_tensor(out, names.out, out.dtype(), {rows, backward ? weight.inputs : weight.outputs});
  DT_CHECK(!is_fp8(weight.format) || (groups.defined() && !backward),
           "{}: a weight as {} takes part in experts' forward products alone", names.op, name_of(weight.format));
  const bool from_forward = !backward || weight.backward_layout == BackwardLayout::kDerived;
  const Tensor& packed = from_forward ? weight.forward : weight.backward_input;
  DT_CHECK(packed.defined() && (groups.defined() || weight.groups == 1),
           "{}: the weight [{}, {}, {}] was not prepared for it", names.op, weight.groups, weight.outputs,
           weight.inputs);
  if (groups.defined()) check_row_groups(names.op, groups, weight.groups, rows);
  OpScope op(ctx, names.op, {&out}, {&x, &packed, &groups.offsets, &groups.sizes},
             {.flops = product_flops(rows, weight.outputs, weight.inputs)});
  op.only_rows_of(groups);
  op.run_with_workspace(on_cpu::product, DT_ON_CUDA(product), out, x, weight, backward, groups, accumulate);
}

}  // namespace

bool bfloat16_is_native() {
  return std::string_view(cpu::panel_isa().name) == "avx512_bf16";
}

std::vector<GroupedGemmStrategy> expert_strategies(Device device) {
  if (device.kind == DeviceKind::kCpu) return {};
#ifdef DT_CUDA
  return on_cuda::expert_strategies(device);
#else
  fail_without_cuda("a strategy of experts' products", device);
#endif
}

void plan_prepared_weight(PreparedWeight& weight, Arena& arena) {
  if (weight.strategy) check_strategy(weight, arena.device());
  weight.format =
      weight_format(arena.device(), weight.activations, weight.strategy.value_or(GroupedGemmStrategy::kBf16));
  if (arena.device().kind == DeviceKind::kCpu) return on_cpu::plan_prepared_weight(weight, arena);
#ifdef DT_CUDA
  on_cuda::plan_prepared_weight(weight, arena);
#else
  fail_without_cuda("a prepared weight", arena.device());
#endif
}

void plan_preparing([[maybe_unused]] ExecutionContext& ctx, const PreparedWeight& weight) {
  if (!is_fp8(weight.format)) return;
#ifdef DT_CUDA
  on_cuda::plan_preparing(ctx, weight);
#endif
}

bool takes_as_stored(const PreparedWeight& weight, std::span<const BlockQuantized> group) {
  if (weight.format != WeightFormat::kRowsFp8Block128) return false;
  int64_t rows = 0;
  for (const BlockQuantized& matrix : group) {
    if (!matrix.elements.defined() || rows % 128 != 0) return false;  // its blocks are not the group's
    rows += matrix.elements.size(0);
  }
  return rows == weight.outputs;
}

void prepare_weight_as_stored([[maybe_unused]] ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group,
                              std::span<const BlockQuantized> rows) {
  for (const BlockQuantized& matrix : rows) {
    const int64_t height = matrix.elements.size(0);
    check_tensor(matrix.elements, "prepare_weight_as_stored: elements", DType::kF8E4M3, {height, weight.inputs});
    check_tensor(matrix.scales, "prepare_weight_as_stored: scales", DType::kF32,
                 {(height + 127) / 128, (weight.inputs + 127) / 128});
  }
  DT_CHECK(takes_as_stored(weight, rows) && first_group < weight.groups,
           "prepare_weight_as_stored: group {} of a weight [{}, {}, {}] in {} is not made of {} such matrices",
           first_group, weight.groups, weight.outputs, weight.inputs, name_of(weight.format), rows.size());
#ifdef DT_CUDA
  on_cuda::prepare_weight_as_stored(ctx, weight, first_group, rows);
#endif
}

void prepare_weight(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group, std::span<const Tensor> rows) {
  if (rows.empty() || !(weight.forward.defined() || weight.backward_input.defined())) return;
  const DType stored = rows.front().dtype();
  check_activation_type("prepare_weight: rows", rows.front());
  int64_t total = 0;
  for (const Tensor& piece : rows) {
    check_tensor(piece, "prepare_weight: rows", stored, {-1, weight.inputs});
    total += piece.size(0);
  }
  const int64_t groups = total / weight.outputs;
  const auto pieces = static_cast<int64_t>(rows.size());
  DT_CHECK(total == groups * weight.outputs && pieces % groups == 0 && first_group + groups <= weight.groups,
           "prepare_weight: {} matrices of {} rows for groups {} to {} of a weight [{}, {}, {}]", pieces, total,
           first_group, first_group + groups - 1, weight.groups, weight.outputs, weight.inputs);
  // Each element is read once, and written once to each layout.
  const double read = static_cast<double>(total * weight.inputs) * static_cast<double>(dtype_size(stored));
  const double share = static_cast<double>(groups) / static_cast<double>(weight.groups);
  const auto bytes = [](const Tensor& t) { return t.defined() ? static_cast<double>(t.bytes()) : 0.0; };
  OpScope op(ctx, "prepare_weight", {&weight.forward, &weight.backward_input}, {},
             {.bytes = read + share * (bytes(weight.forward) + bytes(weight.backward_input))});
  op.run(on_cpu::prepare_weight, DT_ON_CUDA(prepare_weight), weight, first_group, rows);
}

void linear(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight, bool accumulate) {
  run_product(ctx, kLinear, out, x, weight, /*backward=*/false, {}, accumulate);
}

bool widened_linear([[maybe_unused]] ExecutionContext& ctx, [[maybe_unused]] const Tensor& out,
                    [[maybe_unused]] const Tensor& x, [[maybe_unused]] const PreparedWeight& weight) {
#ifdef DT_CUDA
  if (ctx.device.kind == DeviceKind::kCuda && on_cuda::widened_linear_fits(out, x, weight)) {
    check_tensor(x, "widened_linear: x", DType::kBF16, {x.size(0), weight.inputs});
    check_tensor(out, "widened_linear: out", DType::kF32, {x.size(0), weight.outputs});
    OpScope op(ctx, "linear", {&out}, {&x, &weight.forward},
               {.flops = product_flops(x.size(0), weight.outputs, weight.inputs)});
    constexpr decltype(&on_cuda::widened_linear) kNoCpuForm = nullptr;  // the device is none
    op.run(kNoCpuForm, on_cuda::widened_linear, out, x, weight);
    return true;
  }
#endif
  return false;
}

void linear_twice(ExecutionContext& ctx, const Tensor& out, const PreparedWeight& weight, const Tensor& other_out,
                  const PreparedWeight& other, const Tensor& x) {
#ifdef DT_CUDA
  if (ctx.device.kind == DeviceKind::kCuda && on_cuda::linear_twice_fits(out, weight, other_out, other, x)) {
    check_tensor(out, "linear_twice: out", x.dtype(), {x.size(0), weight.outputs});
    check_tensor(other_out, "linear_twice: other_out", x.dtype(), {x.size(0), other.outputs});
    DT_CHECK(weight.inputs == x.size(1) && other.inputs == x.size(1),
             "linear_twice: x has {} columns, but the weights have {} and {} inputs", x.size(1), weight.inputs,
             other.inputs);
    const auto elements = static_cast<double>((weight.outputs + other.outputs) * x.size(1));
    OpScope op(ctx, "linear", {&out, &other_out}, {&x, &weight.forward, &other.forward},
               {.flops = 2 * static_cast<double>(x.size(0)) * elements});
    constexpr decltype(&on_cuda::linear_twice) kNoCpuForm = nullptr;  // the device is none
    op.run(kNoCpuForm, on_cuda::linear_twice, out, weight, other_out, other, x);
    return;
  }
#endif
  linear(ctx, out, x, weight);
  linear(ctx, other_out, x, other);
}

void linear_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const PreparedWeight& weight,
                           bool accumulate) {
  run_product(ctx, kLinearBackward, d_x, d_out, weight, /*backward=*/true, {}, accumulate);
}

void linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                            bool accumulate) {
  const int64_t rows = x.size(0);
  check_activation_type("linear_backward_weight: x", x);
  check_tensor(d_weight, "linear_backward_weight: d_weight", DType::kF32, {-1, x.size(1)});
  check_tensor(d_out, "linear_backward_weight: d_out", x.dtype(), {rows, d_weight.size(0)});
  check_contiguous("linear_backward_weight", {d_weight});
  OpScope op(ctx, "linear_backward_weight", {&d_weight}, {&d_out, &x},
             {.flops = product_flops(rows, d_weight.size(0), d_weight.size(1))});
  op.run_with_workspace(on_cpu::linear_backward_weight, DT_ON_CUDA(linear_backward_weight), d_weight, d_out, x,
                        accumulate);
}

void grouped_linear(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                    const RowGroups& groups) {
  run_product(ctx, kGrouped, out, x, weight, /*backward=*/false, groups, false);
}

bool grouped_gate_up([[maybe_unused]] ExecutionContext& ctx, [[maybe_unused]] const Tensor& out,
                     [[maybe_unused]] const Tensor& x, [[maybe_unused]] const PreparedWeight& weight,
                     [[maybe_unused]] const RowGroups& groups) {
#ifdef DT_CUDA
  if (ctx.device.kind == DeviceKind::kCuda && on_cuda::grouped_gate_up_fits(out, x, weight)) {
    const int64_t rows = x.size(0);
    check_tensor(x, "grouped_gate_up: x", x.dtype(), {rows, weight.inputs});
    check_tensor(out, "grouped_gate_up: out", x.dtype(), {rows, weight.outputs / 2});
    check_row_groups("grouped_gate_up", groups, weight.groups, rows);
    check_contiguous("grouped_gate_up", {out, x});
    OpScope op(ctx, "grouped_gate_up", {&out}, {&x, &weight.forward, &groups.offsets, &groups.sizes},
               {.flops = product_flops(rows, weight.outputs, weight.inputs)});
    op.only_rows_of(groups);
    constexpr decltype(&on_cuda::grouped_gate_up) kNoCpuForm = nullptr;  // the device is none
    op.run(kNoCpuForm, on_cuda::grouped_gate_up, out, x, weight, groups);
    return true;
  }
#endif
  return false;
}

void grouped_linear_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out,
                                   const PreparedWeight& weight, const RowGroups& groups, bool accumulate) {
  run_product(ctx, kGroupedBackward, d_x, d_out, weight, /*backward=*/true, groups, accumulate);
}

void grouped_linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                                    const RowGroups& groups, bool accumulate) {
  const int64_t rows = x.size(0);
  check_activation_type("grouped_linear_backward_weight: x", x);
  check_tensor(d_weight, "grouped_linear_backward_weight: d_weight", DType::kF32, {-1, -1, x.size(1)});
  check_tensor(d_out, "grouped_linear_backward_weight: d_out", x.dtype(), {rows, d_weight.size(1)});
  check_row_groups("grouped_linear_backward_weight", groups, d_weight.size(0), rows);
  check_contiguous("grouped_linear_backward_weight", {d_weight});
  OpScope op(ctx, "grouped_linear_backward_weight", {&d_weight}, {&d_out, &x, &groups.offsets, &groups.sizes},
             {.flops = product_flops(rows, d_weight.size(1), d_weight.size(2))});
  op.run_with_workspace(on_cpu::grouped_linear_backward_weight, DT_ON_CUDA(grouped_linear_backward_weight), d_weight,
                        d_out, x, groups, accumulate);
}

void grouped_linear_backward_weight_of_both(ExecutionContext& ctx, const Tensor& d_weight, const GroupedOperands& first,
                                            const GroupedOperands& second, bool accumulate) {
  constexpr const char* kName = "grouped_linear_backward_weight_of_both";
  double flops = 0;
  for (const GroupedOperands* operands : {&first, &second}) {
    const auto& [d_out, x, groups] = *operands;
    check_activation_type("grouped_linear_backward_weight_of_both: x", x);
    check_tensor(x, "grouped_linear_backward_weight_of_both: x", first.x.dtype(), {-1, first.x.size(1)});
    check_tensor(d_weight, "grouped_linear_backward_weight_of_both: d_weight", DType::kF32, {-1, -1, x.size(1)});
    check_tensor(d_out, "grouped_linear_backward_weight_of_both: d_out", x.dtype(), {x.size(0), d_weight.size(1)});
    check_row_groups(kName, groups, d_weight.size(0), x.size(0));
    flops += product_flops(x.size(0), d_weight.size(1), d_weight.size(2));
  }
  check_contiguous(kName, {d_weight});
  OpScope op(ctx, kName, {&d_weight},
             {&first.d_out, &first.x, &first.groups.offsets, &first.groups.sizes, &second.d_out, &second.x,
              &second.groups.offsets, &second.groups.sizes},
             {.flops = flops});
  op.run_with_workspace(on_cpu::grouped_linear_backward_weight_of_both,
                        DT_ON_CUDA(grouped_linear_backward_weight_of_both), d_weight, first, second, accumulate);
}

void add_bias(ExecutionContext& ctx, const Tensor& out, const Tensor& bias) {
  check_activation_type("add_bias: out", out);
  check_tensor(bias, "add_bias: bias", DType::kF32, {out.size(1)});
  OpScope op(ctx, "add_bias", {&out}, {&bias});
  op.run(on_cpu::add_bias, DT_ON_CUDA(add_bias), out, bias);
}

void add_bias_backward(ExecutionContext& ctx, const Tensor& d_bias, const Tensor& d_out, bool accumulate) {
  check_activation_type("add_bias_backward: d_out", d_out);
  check_tensor(d_bias, "add_bias_backward: d_bias", DType::kF32, {d_out.size(1)});
  OpScope op(ctx, "add_bias_backward", {&d_bias}, {&d_out});
  op.run(on_cpu::add_bias_backward, DT_ON_CUDA(add_bias_backward), d_bias, d_out, accumulate);
}

}  // namespace deeptitan

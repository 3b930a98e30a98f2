#include "ops/cuda/grouped_linear.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

#include <fmt/format.h>

#include "core/cuda_device.h"
#include "core/log.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/grouped_gemm/grouped_gemm.h"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/matmul/few_rows.h"
#include "kernels/cuda/quantization/quantization.h"
#include "ops/cuda/element.h"

namespace deeptitan::on_cuda {
namespace {

constexpr GroupedGemmStrategy kStrategy = GroupedGemmStrategy::kBf16;

GroupedForm choose(const Tensor& out, const Tensor& x, int64_t outputs, int64_t inputs) {
  if (cuda::plain_kernels_wanted()) return {false, "DEEPTITAN_CUDA_KERNELS = plain"};
  static const int major = cuda::capability_major(x.device().index);
  if (major != 9) return {false, "needs compute capability 9.0"};
  if (x.dtype() != DType::kBF16) return {false, "operands are f32"};
  if (out.dtype() != DType::kBF16 && out.rank() == 2) return {false, "the result is f32"};
  if (outputs % 8 != 0 || inputs % 8 != 0) return {false, "a width is no multiple of 8"};
  return {true, ""};
}

void print_once(const GroupedForm& form, int64_t outputs, int64_t inputs) {
  static const char* const wanted = std::getenv("DEEPTITAN_CUDA_PRINT");
  if (wanted == nullptr || std::string(wanted) != "1") return;
  static std::mutex mutex;
  static std::set<std::string> printed;
  const std::string line = fmt::format("grouped product {} x {}: {}", outputs, inputs,
                                       form.tensor_cores ? "tensor cores, bf16" : std::string("plain, ") + form.reason);
  const std::lock_guard lock(mutex);
  if (printed.insert(line).second) log_info(line);
}

/// A matrix as the kernels read it: dense, itself or copied to workspace.
Tensor dense(ExecutionContext& ctx, ArenaScope& workspace, const Tensor& x) {
  if (x.contiguous()) return x;
  const Tensor copy = workspace.take(x.dtype(), {x.size(0), x.size(1)});
  if (!ctx.planning) {
    cuda::convert(copy.raw<bfloat16>(), copy.stride(), x.raw<bfloat16>(), x.stride(), x.size(0), x.size(1),
                  stream_of(ctx));
  }
  return copy;
}

cuda::GroupedGemmShape shape_of(const RowGroups& groups, int64_t outputs, int64_t inputs) {
  const auto [first, count, number] = group_rows(groups);
  return {first, count, static_cast<int>(number), groups.capacity, static_cast<int>(outputs), static_cast<int>(inputs)};
}

void* take_kernel_workspace(ArenaScope& workspace, GroupedGemmStrategy strategy = kStrategy) {
  return workspace.take_bytes(static_cast<int64_t>(cuda::grouped_gemm_workspace_bytes(strategy)));
}

// Blocks that stay to the end on a share of the tiles, and wait for a multiprocessor until others have ended theirs,
// would take twice as long.
int most_multiprocessors(const ExecutionContext& ctx) {
  const int spared = ctx.spared_multiprocessors;
  return spared == 0 ? 0 : std::max(2, cuda::multiprocessors(ctx.device.index) - spared);
}

float8_e4m3* float8_of(const Tensor& x) {
  return static_cast<float8_e4m3*>(x.raw());
}

/// Rows in e4m3 and their scales as the strategy wants them.
struct QuantizedRows {
  Tensor elements, scales;
};
QuantizedRows quantize(ExecutionContext& ctx, ArenaScope& workspace, const Tensor& x, GroupedGemmStrategy strategy) {
  const int64_t rows = x.size(0), width = x.size(1);
  const bool by_row = strategy == GroupedGemmStrategy::kFp8Rowwise;
  const QuantizedRows to{
      workspace.take(DType::kF8E4M3, {rows, width}),
      workspace.take(DType::kF32, {by_row ? rows : scale_count(rows, width, ScaleLayout::kColumnMajor)})};
  if (ctx.planning) return to;
  auto* elements = float8_of(to.elements);
  if (by_row) {
    cuda::quantize_whole_rows(elements, to.scales.raw<float>(), x.raw<bfloat16>(), rows, width, ScaleKind::kFloat,
                              stream_of(ctx));
  } else {
    cuda::quantize_rows(elements, to.scales.raw<float>(), x.raw<bfloat16>(), rows, width,
                        {.layout = ScaleLayout::kColumnMajor}, stream_of(ctx));
  }
  return to;
}

/// A group's matrix in bf16, where it waits to be quantised.
Tensor take_group(ArenaScope& workspace, const PreparedWeight& weight) {
  return workspace.take(DType::kBF16, {weight.outputs, weight.inputs});
}

}  // namespace

GroupedForm choose_grouped_form(const Tensor& out, const Tensor& x, int64_t outputs, int64_t inputs) {
  const GroupedForm form = choose(out, x, outputs, inputs);
  print_once(form, outputs, inputs);
  return form;
}

void multiply_on_tensor_cores(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                              bool backward, const RowGroups& groups, bool accumulate) {
  ArenaScope workspace(*ctx.workspace);
  void* kernel_workspace = take_kernel_workspace(workspace);
  const Tensor operand = dense(ctx, workspace, x);
  const bool direct = out.contiguous() && !accumulate;
  const Tensor result = direct ? out : workspace.take(DType::kBF16, {out.size(0), out.size(1)});
  if (ctx.planning) return;
  const cudaStream_t stream = stream_of(ctx);
  const Tensor& rows = weight.forward.defined() ? weight.forward : weight.backward_input;
  (backward ? cuda::grouped_gemm_input_gradient : cuda::grouped_gemm_forward)(
      kStrategy, result.raw<bfloat16>(), {operand.raw()}, {rows.raw()}, shape_of(groups, weight.outputs, weight.inputs),
      {.max_multiprocessors = most_multiprocessors(ctx)}, kernel_workspace, stream);
  if (direct) return;
  if (accumulate) {
    cuda::add_rows(out.raw<bfloat16>(), out.stride(), result.raw<bfloat16>(), result.stride(), out.size(0), out.size(1),
                   stream);
  } else {
    cuda::convert(out.raw<bfloat16>(), out.stride(), result.raw<bfloat16>(), result.stride(), out.size(0), out.size(1),
                  stream);
  }
}

// Rows that are few take another order of sums (few_rows.h), and keep it.
bool grouped_gate_up_fits(const Tensor& out, const Tensor& x, const PreparedWeight& weight) {
  const int64_t width = weight.outputs / 2;
  return !is_fp8(weight.format) && weight.strategy != GroupedGemmStrategy::kLoop && x.size(0) > cuda::kFewGroupedRows &&
         weight.outputs % 2 == 0 && choose_grouped_form(out, x, width, weight.inputs).tensor_cores &&
         out.contiguous() && x.contiguous();
}

void grouped_gate_up(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                     const RowGroups& groups) {
  cuda::grouped_gemm_gate_up(out.raw<bfloat16>(), x.raw<bfloat16>(), weight.forward.raw<bfloat16>(),
                             shape_of(groups, weight.outputs / 2, weight.inputs),
                             {.max_multiprocessors = most_multiprocessors(ctx)}, stream_of(ctx));
}

void multiply_by_strategy(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                          const RowGroups& groups) {
  const GroupedGemmStrategy strategy = *weight.strategy;
  ArenaScope workspace(*ctx.workspace);
  void* kernel_workspace = take_kernel_workspace(workspace, strategy);
  const Tensor rows = dense(ctx, workspace, x);
  const QuantizedRows quantized =
      is_fp8(weight.format) ? quantize(ctx, workspace, rows, strategy) : QuantizedRows{rows, Tensor()};
  const Tensor result = out.contiguous() ? out : workspace.take(DType::kBF16, {out.size(0), out.size(1)});
  if (ctx.planning) return;
  cuda::grouped_gemm_forward(strategy, result.raw<bfloat16>(),
                             {quantized.elements.raw(), raw_or_null<float>(quantized.scales)},
                             {weight.forward.raw(), raw_or_null<float>(weight.scales)},
                             shape_of(groups, weight.outputs, weight.inputs), {}, kernel_workspace, stream_of(ctx));
  if (out.contiguous()) return;
  cuda::convert(out.raw<bfloat16>(), out.stride(), result.raw<bfloat16>(), result.stride(), out.size(0), out.size(1),
                stream_of(ctx));
}

std::vector<GroupedGemmStrategy> expert_strategies(Device device) {
  std::vector<GroupedGemmStrategy> strategies = {GroupedGemmStrategy::kLoop};
  if (cuda::capability_major(device.index) == 9) {
    strategies.insert(strategies.end(), {GroupedGemmStrategy::kBf16, GroupedGemmStrategy::kFp8Rowwise,
                                         GroupedGemmStrategy::kFp8Blockwise});
  }
  return strategies;
}

void plan_preparing(ExecutionContext& ctx, const PreparedWeight& weight) {
  ArenaScope workspace(*ctx.workspace);
  take_group(workspace, weight);
}

void quantize_group(ExecutionContext& ctx, const PreparedWeight& weight, int64_t group,
                    const std::function<void(bfloat16* to)>& fill) {
  ArenaScope workspace(*ctx.workspace);
  const Tensor staged = take_group(workspace, weight);
  fill(staged.raw<bfloat16>());
  auto* elements = float8_of(weight.forward) + group * staged.numel();
  if (weight.format == WeightFormat::kRowsFp8Rowwise) {
    cuda::quantize_whole_rows(elements, weight.scales.raw<float>() + group * weight.outputs, staged.raw<bfloat16>(),
                              weight.outputs, weight.inputs, ScaleKind::kFloat, stream_of(ctx));
  } else {
    cuda::quantize_blocks(elements, weight.scales.raw<float>() + group * (weight.scales.numel() / weight.groups),
                          staged.raw<bfloat16>(), 1, weight.outputs, weight.inputs, ScaleKind::kFloat, stream_of(ctx));
  }
  ctx.compute.synchronize();  // before the workspace holds the next group
}

void prepare_weight_as_stored(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group,
                              std::span<const BlockQuantized> rows) {
  if (ctx.planning) return;
  auto* elements = float8_of(weight.forward) + first_group * weight.outputs * weight.inputs;
  float* scales = weight.scales.raw<float>() + first_group * (weight.scales.numel() / weight.groups);
  for (const BlockQuantized& matrix : rows) {
    cuda::copy(elements, matrix.elements.raw(), matrix.elements.bytes());
    cuda::copy(scales, matrix.scales.raw(), matrix.scales.bytes());
    elements += matrix.elements.numel();
    scales += matrix.scales.numel();
  }
}

void weight_gradient_on_tensor_cores(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out,
                                     const Tensor& x, const RowGroups& groups, bool accumulate) {
  ArenaScope workspace(*ctx.workspace);
  void* kernel_workspace = take_kernel_workspace(workspace);
  const Tensor left = dense(ctx, workspace, d_out);
  const Tensor right = dense(ctx, workspace, x);
  if (ctx.planning) return;
  cuda::grouped_gemm_weight_gradient(kStrategy, d_weight.raw<float>(), left.raw<bfloat16>(), right.raw<bfloat16>(),
                                     shape_of(groups, d_out.size(1), x.size(1)),
                                     {.max_multiprocessors = most_multiprocessors(ctx), .accumulate = accumulate},
                                     kernel_workspace, stream_of(ctx));
}

void weight_gradient_of_both_on_tensor_cores(ExecutionContext& ctx, const Tensor& d_weight,
                                             const GroupedOperands& first, const GroupedOperands& second,
                                             bool accumulate) {
  ArenaScope workspace(*ctx.workspace);
  const auto rows_of = [&](const GroupedOperands& operands) {
    const auto [begin, count, number] = group_rows(operands.groups);
    return cuda::GroupedGemmRows{dense(ctx, workspace, operands.d_out).raw<bfloat16>(),
                                 dense(ctx, workspace, operands.x).raw<bfloat16>(), begin, count,
                                 operands.groups.capacity};
  };
  const cuda::GroupedGemmRows of_first = rows_of(first), of_second = rows_of(second);
  if (ctx.planning) return;
  cuda::grouped_gemm_weight_gradient_of_both(d_weight.raw<float>(), of_first, of_second,
                                             static_cast<int>(d_weight.size(0)), static_cast<int>(d_weight.size(1)),
                                             static_cast<int>(d_weight.size(2)), {.accumulate = accumulate},
                                             stream_of(ctx));
}

}  // namespace deeptitan::on_cuda

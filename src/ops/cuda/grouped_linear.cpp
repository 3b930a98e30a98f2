#include "ops/cuda/grouped_linear.h"

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

void* take_kernel_workspace(ArenaScope& workspace) {
  return workspace.take_bytes(static_cast<int64_t>(cuda::grouped_gemm_workspace_bytes(kStrategy)));
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
      {}, kernel_workspace, stream);
  if (direct) return;
  if (accumulate) {
    cuda::add_rows(out.raw<bfloat16>(), out.stride(), result.raw<bfloat16>(), result.stride(), out.size(0), out.size(1),
                   stream);
  } else {
    cuda::convert(out.raw<bfloat16>(), out.stride(), result.raw<bfloat16>(), result.stride(), out.size(0), out.size(1),
                  stream);
  }
}

void add_weight_gradient_on_tensor_cores(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out,
                                         const Tensor& x, const RowGroups& groups) {
  ArenaScope workspace(*ctx.workspace);
  void* kernel_workspace = take_kernel_workspace(workspace);
  const Tensor left = dense(ctx, workspace, d_out);
  const Tensor right = dense(ctx, workspace, x);
  if (ctx.planning) return;
  cuda::grouped_gemm_weight_gradient(kStrategy, d_weight.raw<float>(), left.raw<bfloat16>(), right.raw<bfloat16>(),
                                     shape_of(groups, d_out.size(1), x.size(1)), {}, kernel_workspace, stream_of(ctx));
}

}  // namespace deeptitan::on_cuda

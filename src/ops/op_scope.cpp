#include "ops/op_scope.h"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "core/dtype_word.h"
#include "core/error.h"
#include "kernels/cpu/elementwise/finite.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {
namespace {

double bytes_of(OpScope::Tensors tensors) {
  double sum = 0;
  for (const Tensor* tensor : tensors) sum += tensor->defined() ? static_cast<double>(tensor->bytes()) : 0.0;
  return sum;
}

bool all_finite([[maybe_unused]] const ExecutionContext& ctx, const Tensor& tensor) {
#ifdef DT_CUDA
  if (tensor.device().kind == DeviceKind::kCuda) return on_cuda::all_finite(ctx, tensor);
#endif
  if (tensor.dtype() == DType::kBF16)
    return cpu::rows_finite(tensor.host<bfloat16>(), tensor.stride(), tensor.size(0), tensor.row_numel());
  if (tensor.dtype() == DType::kF32)
    return cpu::rows_finite(tensor.host<float>(), tensor.stride(), tensor.size(0), tensor.row_numel());
  return true;
}

bool all_finite(const ExecutionContext& ctx, const Tensor& tensor, const RowGroups& groups) {
  std::vector<int32_t> first(static_cast<size_t>(groups.groups()));
  std::vector<int32_t> count(first.size());
  ctx.compute.copy(first.data(), groups.offsets.raw(), groups.sizes.bytes());
  ctx.compute.copy(count.data(), groups.sizes.raw(), groups.sizes.bytes());
  ctx.compute.synchronize();
  for (size_t g = 0; g < first.size(); ++g) {
    if (count[g] > 0 && !all_finite(ctx, tensor.rows(first[g], first[g] + count[g]))) return false;
  }
  return true;
}

}  // namespace

OpScope::OpScope(ExecutionContext& ctx, const char* name, Tensors outputs, Tensors inputs, const OpCost& cost)
    : ctx_(ctx), name_(name) {
  DT_CHECK(outputs.size() <= kMostOutputs, "{} has {} outputs; OpScope holds {}", name, outputs.size(), kMostOutputs);
  std::copy(outputs.begin(), outputs.end(), outputs_.begin());
  if (ctx_.planning) check_devices(outputs, inputs);
  if (ctx_.profile != nullptr) [[unlikely]]
    begin_profile(outputs, inputs, cost);
}

void OpScope::begin_profile(Tensors outputs, Tensors inputs, const OpCost& cost) {
  cost_ = cost;
  if (cost.bytes == OpCost::kEachTensorOnce) cost_.bytes = bytes_of(outputs) + bytes_of(inputs);
  if (ctx_.planning) return;
  begin_ = Event(ctx_.device);
  begin_.record(ctx_.compute);
}

void OpScope::end_profile() {
  Event end = ctx_.planning ? Event() : Event(ctx_.device);
  if (!ctx_.planning) end.record(ctx_.compute);
  ctx_.profile->add(name_, cost_.flops, cost_.bytes, begin_, end);
}

void OpScope::check_devices(Tensors outputs, Tensors inputs) const {
  for (const Tensors& tensors : {outputs, inputs}) {
    for (const Tensor* tensor : tensors) {
      DT_CHECK(!tensor->defined() || tensor->device() == ctx_.device, "{}: expected tensors on {}, found {}{}", name_,
               device_name(ctx_.device), tensor->describe(),
               tensor->device().kind == DeviceKind::kCpu ? " on cpu" : "");
    }
  }
}

void OpScope::check_finite() const {
  try {
    ctx_.compute.synchronize();
  } catch (const Error& error) {
    fail("{} failed on {}: {}", name_, device_name(ctx_.device), error.what());
  }
  FirstNotFinite* const noted = ctx_.not_finite;
  if (noted != nullptr) {
    ++noted->ops;
    if (noted->place >= 0) return;
  }
  for (const Tensor* output : outputs_) {
    if (output == nullptr || !output->defined()) continue;
    if (rows_ == nullptr ? all_finite(ctx_, *output) : all_finite(ctx_, *output, *rows_)) continue;
    const std::string what =
        fmt::format("{} gave a value that is not finite in its output {}{}", name_, dtype_word(output->dtype()),
                    output->describe().substr(dtype_name(output->dtype()).size()));
    if (noted == nullptr) fail("{}", what);
    noted->place = noted->ops;
    noted->what = what;
    return;
  }
}

void OpScope::fail_without_form() const {
#ifdef DT_CUDA
  fail("{} has no kernel for {}; use cpu", name_, device_name(ctx_.device));
#else
  fail_without_cuda(name_, ctx_.device);
#endif
}

void check_activation_type(const char* name, const Tensor& tensor) {
  DT_CHECK(tensor.dtype() == DType::kF32 || tensor.dtype() == DType::kBF16, "{}: expected f32 or bf16, found {}", name,
           tensor.describe());
}

}  // namespace deeptitan

#include "ops/op_scope.h"

#include "core/clock.h"
#include "core/error.h"
#include "kernels/cpu/optimizer/adamw.h"

namespace deeptitan {

OpScope::OpScope(ExecutionContext& ctx, const char* name, double flops) : ctx_(ctx), name_(name), flops_(flops) {
  if (ctx_.profile != nullptr && !ctx_.planning) start_ = monotonic_seconds();
}

OpScope::~OpScope() {
  if (ctx_.profile == nullptr || ctx_.planning) return;
  OpProfile::Entry& entry = ctx_.profile->entries[name_];
  entry.seconds += monotonic_seconds() - start_;
  entry.flops += flops_;
  ++entry.calls;
}

void OpScope::check(std::initializer_list<Tensor> outputs) const {
  if (!ctx_.check_finite) return;
  for (const Tensor& output : outputs) {
    if (!output.defined()) continue;
    const int64_t rows = output.contiguous() ? 1 : output.size(0);
    const int64_t count = output.numel() / rows;
    bool finite = true;
    for_activation_type(name_, output, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      for (int64_t r = 0; r < rows; ++r)
        finite = finite && cpu::all_finite(output.host<T>() + r * output.stride(), count);
    });
    DT_CHECK(finite, "{} gave a value that is not finite in its output {}", name_, output.describe());
  }
}

void fail_unsupported(const char* op, const Tensor& tensor) {
  fail("{} has no kernel for {} on {}", op, tensor.describe(),
       tensor.device().kind == DeviceKind::kCpu ? "the CPU" : "a GPU");
}

}  // namespace deeptitan

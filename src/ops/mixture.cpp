#include "ops/mixture.h"

#include "core/error.h"

namespace deeptitan {

#ifdef DT_CUDA
namespace {

void check_pair(const char* gate_up_name, const char* down_name, const PreparedWeight& gate_up,
                const PreparedWeight& down, int64_t groups, int64_t hidden) {
  DT_CHECK(gate_up.groups == groups && gate_up.inputs == hidden && gate_up.outputs % 2 == 0,
           "mixture_of_few: {}: expected {} matrices [2 I, {}], found {} of [{}, {}]", gate_up_name, groups, hidden,
           gate_up.groups, gate_up.outputs, gate_up.inputs);
  DT_CHECK(down.groups == groups && down.outputs == hidden && 2 * down.inputs == gate_up.outputs,
           "mixture_of_few: {}: expected {} matrices [{}, {}], found {} of [{}, {}]", down_name, groups, hidden,
           gate_up.outputs / 2, down.groups, down.outputs, down.inputs);
}

double elements(const PreparedWeight* weight) {
  return weight == nullptr ? 0 : static_cast<double>(weight->outputs * weight->inputs);
}

}  // namespace

bool mixture_of_few(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Routing& routing, const MixtureWeights& w, const RouterOptions& options) {
  if (ctx.device.kind != DeviceKind::kCuda || !on_cuda::mixture_of_few_fits(x, w, options)) return false;
  const int64_t tokens = x.size(0), hidden = x.size(1);
  check_tensor(out, "mixture_of_few: out", x.dtype(), {tokens, hidden});
  check_tensor(routing.expert_index, "mixture_of_few: expert_index", DType::kI32, {tokens, options.top_k});
  check_tensor(routing.expert_weight, "mixture_of_few: expert_weight", DType::kF32, {tokens, options.top_k});
  check_pair("gate_up", "down", *w.gate_up, *w.down, options.experts, hidden);
  if (w.shared_gate_up != nullptr) {
    check_pair("shared_gate_up", "shared_down", *w.shared_gate_up, *w.shared_down, 1, hidden);
  }
  check_tensor(residual, "mixture_of_few: residual", x.dtype(), {tokens, hidden});
  check_contiguous("mixture_of_few", {out, x, residual});
  const double experts = static_cast<double>(tokens * options.top_k) * (elements(w.gate_up) + elements(w.down));
  const double shared = elements(w.shared_gate_up) + elements(w.shared_down);
  OpScope op(ctx, "mixture_of_few", {&out, &routing.expert_weight, &routing.expert_index}, {&x, &residual, &w.bias},
             {.flops = 2 * (experts + static_cast<double>(tokens) * (shared + elements(w.router))),
              .bytes = static_cast<double>(dtype_size(x.dtype())) * (experts + shared) + 4 * elements(w.router)});
  constexpr decltype(&on_cuda::mixture_of_few) kNoCpuForm = nullptr;  // the device is none
  op.run_with_workspace(kNoCpuForm, on_cuda::mixture_of_few, out, x, residual, routing, w, options);
  return true;
}

#else
bool mixture_of_few(ExecutionContext& /*ctx*/, const Tensor& /*out*/, const Tensor& /*x*/, const Tensor& /*residual*/,
                    const Routing& /*routing*/, const MixtureWeights& /*weights*/, const RouterOptions& /*options*/) {
  return false;
}
#endif

}  // namespace deeptitan

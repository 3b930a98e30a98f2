#include "ops/optimizer.h"

#include "core/error.h"

namespace deeptitan {

void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings, const RoundingPlace& place, const Tensor& rounded) {
  check_tensor(parameter, "adamw_update: parameter", DType::kF32, {-1});
  check_activation_type("adamw_update: first_moment", first_moment);
  check_tensor(first_moment, "adamw_update: first_moment", first_moment.dtype(), {parameter.size(0)});
  check_tensor(second_moment, "adamw_update: second_moment", first_moment.dtype(), {parameter.size(0)});
  check_tensor(gradient, "adamw_update: gradient", DType::kF32, {parameter.size(0)});
  check_contiguous("adamw_update", {parameter, first_moment, second_moment, gradient});
  if (rounded.defined()) {
    check_tensor(rounded, "adamw_update: rounded", DType::kBF16, {parameter.size(0)});
    check_contiguous("adamw_update", {rounded});
  }
  // All four are read; all but the gradient are written.
  const int64_t bytes = 3 * parameter.bytes() + 4 * first_moment.bytes() + (rounded.defined() ? rounded.bytes() : 0);
  OpScope op(ctx, "adamw_update", {&parameter, &first_moment, &second_moment, &rounded}, {&gradient},
             {.bytes = static_cast<double>(bytes)});
  op.run(on_cpu::adamw_update, DT_ON_CUDA(adamw_update), parameter, first_moment, second_moment, gradient, weight_decay,
         settings, place, rounded);
}

void square_sums(ExecutionContext& ctx, const Tensor& sums, const Tensor& x, const ElementRange& range) {
  check_tensor(sums, "square_sums: sums", DType::kF64, {kSquareBlocks});
  check_tensor(x, "square_sums: x", DType::kF32, {-1});
  check_contiguous("square_sums", {sums, x});
  DT_CHECK(range.first >= 0 && range.first + x.size(0) <= range.whole,
           "square_sums: elements {} to {} of a parameter of {}", range.first, range.first + x.size(0), range.whole);
  OpScope op(ctx, "square_sums", {&sums}, {&x}, {.flops = 2.0 * static_cast<double>(x.numel())});
  op.run_with_workspace(on_cpu::square_sums, DT_ON_CUDA(square_sums), sums, x, range);
}

void begin_step_output(ExecutionContext& ctx) {
  DT_CHECK(ctx.state != nullptr, "begin_step_output: the context has no step state");
  OpScope op(ctx, "begin_step_output", {}, {});
  op.run(on_cpu::begin_step_output, DT_ON_CUDA(begin_step_output));
}

void finish_gradient(ExecutionContext& ctx, const Tensor& sums, double max_norm, bool halt) {
  check_tensor(sums, "finish_gradient: sums", DType::kF64, {-1, kSquareBlocks});
  check_contiguous("finish_gradient", {sums});
  DT_CHECK(ctx.state != nullptr, "finish_gradient: the context has no step state");
  OpScope op(ctx, "finish_gradient", {}, {&sums});
  op.run(on_cpu::finish_gradient, DT_ON_CUDA(finish_gradient), sums, max_norm, halt);
}

}  // namespace deeptitan

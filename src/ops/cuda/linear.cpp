#include <algorithm>
#include <vector>

#include "core/cuda_device.h"
#include "core/error.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cuda/bias/bias.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/matmul/dense_product.h"
#include "kernels/cuda/matmul/few_rows.h"
#include "kernels/cuda/matmul/in_order.h"
#include "kernels/cuda/matmul/matmul.h"
#include "ops/cuda/element.h"
#include "ops/cuda/grouped_linear.h"
#include "ops/cuda/ops.h"
#include "ops/linear.h"

// On a GPU a weight is prepared as its rows in the operand's type: one layout that serves both directions.

namespace deeptitan::on_cuda {
namespace {

struct DenseProductTensors {
  Tensor out;
  Tensor left;
  Tensor right;
  bool left_transposed = false;
  bool right_transposed = false;
  int64_t rows = 0;
  int64_t steps = 0;
  int64_t bulk = 0;  // tokens, along whichever dimension
};

template <typename Body>
void for_product_types(const Tensor& operand, const Tensor& result, const Body& body) {
  for_activation_type(operand, [&](auto* in) { for_activation_type(result, [&](auto* out) { body(in, out); }); });
}

/// to [rows, columns], dense on the GPU, = rows of a matrix in the host's memory.
template <typename To>
void upload_rows(To* to, const Tensor& rows) {
  const int64_t count = rows.size(0);
  const int64_t columns = rows.size(1);
  for_activation_type(rows, [&](auto* element) {
    using From = Element<decltype(element)>;
    if (std::is_same_v<From, To> && rows.contiguous()) {
      cuda::copy(to, rows.raw(), rows.bytes());
      return;
    }
    std::vector<To> dense(count * columns);
    if constexpr (std::is_same_v<From, To>) {
      const auto size = static_cast<int64_t>(sizeof(To));
      cpu::copy_rows(dense.data(), columns * size, rows.raw(), rows.stride() * size, count, columns * size);
    } else {
      cpu::convert(dense.data(), columns, rows.raw<From>(), rows.stride(), count, columns);
    }
    cuda::copy(to, dense.data(), static_cast<int64_t>(dense.size() * sizeof(To)));
  });
}

/// to = matrices of `columns` columns that may lie anywhere, one below the other.
template <typename To>
void copy_rows_as(ExecutionContext& ctx, To* to, std::span<const Tensor> rows, int64_t columns) {
  for (const Tensor& piece : rows) {
    if (piece.device().kind == DeviceKind::kCpu) {
      upload_rows(to, piece);
    } else {
      for_activation_type(piece, [&](auto* from_type) {
        cuda::convert(to, columns, piece.raw<Element<decltype(from_type)>>(), piece.stride(), piece.size(0), columns,
                      stream_of(ctx));
      });
    }
    to += piece.size(0) * columns;
  }
}

bool is_f32(const Tensor& x) {
  return x.dtype() == DType::kF32;
}

/// A product through cuBLASLt where it takes the operands; false where it does not. In fp32 it serves bulk alone: few
/// rows keep the order of the CPU's sums.
bool multiply_by_library(ExecutionContext& ctx, const DenseProductTensors& t, bool accumulate, bool whole_class) {
  if (cuda::plain_kernels_wanted() || t.rows == 0 || t.steps == 0) return false;
  if (is_f32(t.left) && t.bulk <= cuda::kBatchRows) return false;
  const auto matrix = [](const Tensor& x, bool transposed) {
    return cuda::DenseMatrix{x.raw(), x.size(0), x.size(1), x.stride(), transposed};
  };
  const cuda::DenseProduct product{.output = t.out.raw(),
                                   .output_stride = t.out.stride(),
                                   .f32_output = is_f32(t.out),
                                   .f32_operands = is_f32(t.left),
                                   .left = matrix(t.left, t.left_transposed),
                                   .right = matrix(t.right, t.right_transposed),
                                   .accumulate = accumulate,
                                   .whole_class = whole_class};
  if (!cuda::dense_product_fits(product) || (is_f32(t.left) && !is_f32(t.out))) return false;
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(static_cast<int64_t>(cuda::kDenseWorkspaceBytes));
  if (!ctx.planning) cuda::multiply_dense(product, scratch, stream_of(ctx));
  return true;
}

/// x W^T for few rows; false where there are more, or the operands do not fit.
bool multiply_few(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                  const RowGroups& groups, bool accumulate) {
  if (cuda::plain_kernels_wanted()) return false;
  if (x.dtype() == DType::kF32) {
    if (out.dtype() != DType::kF32 || groups.defined() || accumulate || x.size(0) > cuda::kFewRows) return false;
    if (ctx.planning) return true;
    cuda::multiply_few_rows_in_order(out.raw<float>(), out.stride(), x.raw<float>(), x.stride(),
                                     weight.forward.raw<float>(), x.size(0), weight.outputs, weight.inputs,
                                     stream_of(ctx));
    return true;
  }
  bool done = false;
  for_activation_type(out, [&](auto* element) {
    using Out = Element<decltype(element)>;
    const cuda::FewRowsProduct<Out> product{.y = out.raw<Out>(),
                                            .ld_y = out.stride(),
                                            .x = x.raw<bfloat16>(),
                                            .ld_x = x.stride(),
                                            .weight = weight.forward.raw<bfloat16>(),
                                            .rows = x.size(0),
                                            .outputs = weight.outputs,
                                            .inputs = weight.inputs,
                                            .groups = group_rows(groups),
                                            .accumulate = accumulate};
    done = cuda::few_rows_fit(product);
    if (done && !ctx.planning) cuda::multiply_few_rows(product, stream_of(ctx));
  });
  return done;
}

template <typename T>
cuda::InOrderProduct<T> in_order_product(const Tensor& out, const Tensor& x, const PreparedWeight& weight) {
  return {.y = out.raw<float>(),
          .ld_y = out.stride(),
          .x = x.raw<T>(),
          .ld_x = x.stride(),
          .weight = weight.forward.raw<float>(),
          .rows = x.size(0),
          .outputs = weight.outputs,
          .inputs = weight.inputs};
}

/// x W^T in fp32 with few columns, as a router has; false for any other.
bool multiply_few_columns(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                          bool accumulate) {
  if (cuda::plain_kernels_wanted() || !is_f32(x) || !is_f32(out) || accumulate) return false;
  const auto product = in_order_product<float>(out, x, weight);
  if (!cuda::in_order_fits(product)) return false;
  if (!ctx.planning) cuda::multiply_in_order(product, stream_of(ctx));
  return true;
}

/// d_y W in fp32 with few outputs, as a router has; false for any other.
bool multiply_few_outputs(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const PreparedWeight& weight,
                          bool accumulate) {
  if (cuda::plain_kernels_wanted() || !is_f32(d_out)) return false;
  const Tensor& rows = weight.backward_input.defined() ? weight.backward_input : weight.forward;
  bool fits = false;
  for_activation_type(d_x, [&](auto* element) {
    using T = Element<decltype(element)>;
    const cuda::InOrderGradient<T> gradient{.d_x = d_x.raw<T>(),
                                            .ld_d_x = d_x.stride(),
                                            .d_y = d_out.raw<float>(),
                                            .ld_d_y = d_out.stride(),
                                            .weight = rows.raw<float>(),
                                            .rows = d_out.size(0),
                                            .steps = weight.outputs,
                                            .columns = weight.inputs,
                                            .accumulate = accumulate};
    fits = cuda::in_order_gradient_fits(gradient);
    if (fits && !ctx.planning) cuda::multiply_gradient_in_order(gradient, stream_of(ctx));
  });
  return fits;
}

/// d_weight += (or =) d_out^T x; over groups of rows where these are defined.
void add_weight_gradient(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                         const RowGroups& groups, bool accumulate) {
  const int64_t outputs = d_out.size(1);
  const int64_t inputs = x.size(1);
  const bool grouped = groups.defined();
  if (grouped && choose_grouped_form(d_weight, x, outputs, inputs).tensor_cores) {
    weight_gradient_on_tensor_cores(ctx, d_weight, d_out, x, groups, accumulate);
    return;
  }
  if (!grouped && multiply_by_library(ctx,
                                      {.out = d_weight,
                                       .left = d_out,
                                       .right = x,
                                       .left_transposed = true,
                                       .rows = outputs,
                                       .steps = x.size(0),
                                       .bulk = x.size(0)},
                                      accumulate, /*whole_class=*/false)) {
    return;
  }
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::multiply_strided(
        cuda::StridedProduct<T, float>{.c = d_weight.raw<float>(),
                                       .c_row = inputs,
                                       .c_batch = outputs * inputs,
                                       .a = d_out.raw<T>(),
                                       .a_row = 1,
                                       .a_step = d_out.stride(),
                                       .b = x.raw<T>(),
                                       .b_step = x.stride(),
                                       .b_column = 1,
                                       .rows = outputs,
                                       .steps = x.size(0),
                                       .columns = inputs,
                                       .batches = grouped ? d_weight.size(0) : 1,
                                       .groups = grouped ? cuda::ProductGroups::kSteps : cuda::ProductGroups::kNone,
                                       .group_rows = group_rows(groups),
                                       .accumulate = accumulate},
        stream_of(ctx));
  });
}

cuda::FewRowsProduct<bfloat16> few_rows(const Tensor& out, const Tensor& x, const PreparedWeight& weight) {
  return {.y = out.raw<bfloat16>(),
          .ld_y = out.stride(),
          .x = x.raw<bfloat16>(),
          .ld_x = x.stride(),
          .weight = weight.forward.raw<bfloat16>(),
          .rows = x.size(0),
          .outputs = weight.outputs,
          .inputs = weight.inputs};
}

}  // namespace

bool widened_linear_fits(const Tensor& out, const Tensor& x, const PreparedWeight& weight) {
  return !cuda::plain_kernels_wanted() && x.dtype() == DType::kBF16 && is_f32(out) &&
         weight.format == WeightFormat::kRowsF32 && cuda::in_order_fits(in_order_product<bfloat16>(out, x, weight));
}

void widened_linear(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight) {
  cuda::multiply_in_order(in_order_product<bfloat16>(out, x, weight), stream_of(ctx));
}

bool linear_twice_fits(const Tensor& out, const PreparedWeight& weight, const Tensor& other_out,
                       const PreparedWeight& other, const Tensor& x) {
  const auto is_bf16 = [](const Tensor& tensor) { return tensor.dtype() == DType::kBF16; };
  return !cuda::plain_kernels_wanted() && is_bf16(x) && is_bf16(out) && is_bf16(other_out) &&
         cuda::few_rows_fit(few_rows(out, x, weight)) && cuda::few_rows_fit(few_rows(other_out, x, other));
}

void linear_twice(ExecutionContext& ctx, const Tensor& out, const PreparedWeight& weight, const Tensor& other_out,
                  const PreparedWeight& other, const Tensor& x) {
  cuda::multiply_few_rows_twice(few_rows(out, x, weight), few_rows(other_out, x, other), stream_of(ctx));
}

void plan_prepared_weight(PreparedWeight& weight, Arena& arena) {
  if (is_fp8(weight.format)) {
    const auto blocks = [](int64_t extent) { return (extent + 127) / 128; };
    const bool by_row = weight.format == WeightFormat::kRowsFp8Rowwise;
    weight.forward = arena.take(DType::kF8E4M3, {weight.groups, weight.outputs, weight.inputs});
    weight.scales = by_row ? arena.take(DType::kF32, {weight.groups, weight.outputs})
                           : arena.take(DType::kF32, {weight.groups, blocks(weight.outputs), blocks(weight.inputs)});
    return;
  }
  const Tensor rows = arena.take(weight.format == WeightFormat::kRowsBf16 ? DType::kBF16 : DType::kF32,
                                 {weight.groups, weight.outputs, weight.inputs});
  weight.forward = weight.for_forward ? rows : Tensor();
  weight.backward_input = weight.backward_layout == BackwardLayout::kKept ? rows : Tensor();
}

void prepare_weight(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group, std::span<const Tensor> rows) {
  if (ctx.planning) return;
  if (is_fp8(weight.format)) {
    int64_t height = 0;
    size_t first = 0, end = 0;  // the pieces of a group
    for (const Tensor& piece : rows) {
      height += piece.size(0);
      ++end;
      if (height < weight.outputs) continue;
      quantize_group(ctx, weight, first_group++,
                     [&](bfloat16* to) { copy_rows_as(ctx, to, rows.subspan(first, end - first), weight.inputs); });
      height = 0;
      first = end;
    }
    return;
  }
  const Tensor& stack = weight.forward.defined() ? weight.forward : weight.backward_input;
  for_activation_type(stack, [&](auto* element) {
    using To = Element<decltype(element)>;
    copy_rows_as(ctx, stack.raw<To>() + first_group * weight.outputs * weight.inputs, rows, weight.inputs);
  });
}

void product(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight, bool backward,
             const RowGroups& groups, bool accumulate) {
  const bool grouped = groups.defined();
  if (grouped && (is_fp8(weight.format) || weight.strategy == GroupedGemmStrategy::kLoop)) {
    return multiply_by_strategy(ctx, out, x, weight, groups);
  }
  if (!backward && multiply_few(ctx, out, x, weight, groups, accumulate)) return;
  if (!backward && !grouped && multiply_few_columns(ctx, out, x, weight, accumulate)) return;
  if (backward && !grouped && multiply_few_outputs(ctx, out, x, weight, accumulate)) return;
  if (grouped && choose_grouped_form(out, x, weight.outputs, weight.inputs).tensor_cores) {
    multiply_on_tensor_cores(ctx, out, x, weight, backward, groups, accumulate);
    return;
  }
  const Tensor& rows = weight.forward.defined() ? weight.forward : weight.backward_input;
  if (!grouped && multiply_by_library(ctx,
                                      {.out = out,
                                       .left = x,
                                       .right = rows.reshape({weight.outputs, weight.inputs}),
                                       .right_transposed = !backward,
                                       .rows = x.size(0),
                                       .steps = backward ? weight.outputs : weight.inputs,
                                       .bulk = x.size(0)},
                                      accumulate, /*whole_class=*/true)) {
    return;
  }
  if (ctx.planning) return;
  for_product_types(x, out, [&](auto* in_type, auto* out_type) {
    using In = Element<decltype(in_type)>;
    using Out = Element<decltype(out_type)>;
    cuda::multiply_strided(
        cuda::StridedProduct<In, Out>{.c = out.raw<Out>(),
                                      .c_row = out.stride(),
                                      .a = x.raw<In>(),
                                      .a_row = x.stride(),
                                      .a_step = 1,
                                      .b = rows.raw<In>(),
                                      .b_step = backward ? weight.inputs : 1,
                                      .b_column = backward ? 1 : weight.inputs,
                                      .b_batch = weight.outputs * weight.inputs,
                                      .rows = x.size(0),
                                      .steps = backward ? weight.outputs : weight.inputs,
                                      .columns = backward ? weight.inputs : weight.outputs,
                                      .batches = grouped ? weight.groups : 1,
                                      .groups = grouped ? cuda::ProductGroups::kRows : cuda::ProductGroups::kNone,
                                      .group_rows = group_rows(groups),
                                      .accumulate = accumulate},
        stream_of(ctx));
  });
}

void linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                            bool accumulate) {
  add_weight_gradient(ctx, d_weight, d_out, x, {}, accumulate);
}

void grouped_linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                                    const RowGroups& groups, bool accumulate) {
  add_weight_gradient(ctx, d_weight, d_out, x, groups, accumulate);
}

void grouped_linear_backward_weight_of_both(ExecutionContext& ctx, const Tensor& d_weight, const GroupedOperands& first,
                                            const GroupedOperands& second, bool accumulate) {
  if (choose_grouped_form(d_weight, first.x, first.d_out.size(1), first.x.size(1)).tensor_cores) {
    return weight_gradient_of_both_on_tensor_cores(ctx, d_weight, first, second, accumulate);
  }
  on_cuda::grouped_linear_backward_weight(ctx, d_weight, first.d_out, first.x, first.groups, accumulate);
  on_cuda::grouped_linear_backward_weight(ctx, d_weight, second.d_out, second.x, second.groups, true);
}

void add_bias(ExecutionContext& ctx, const Tensor& out, const Tensor& bias) {
  if (ctx.planning) return;
  for_activation_type(out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::add_bias(out.raw<T>(), out.stride(), bias.raw<float>(), out.size(0), out.size(1), stream_of(ctx));
  });
}

void add_bias_backward(ExecutionContext& ctx, const Tensor& d_bias, const Tensor& d_out, bool accumulate) {
  if (!accumulate) on_cuda::fill_zero(ctx, d_bias);
  for_activation_type(d_out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::add_bias_backward(d_bias.raw<float>(), d_out.raw<T>(), d_out.stride(), d_out.size(0), d_out.size(1),
                            stream_of(ctx));
  });
}

}  // namespace deeptitan::on_cuda

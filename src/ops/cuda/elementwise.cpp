#include "kernels/cuda/elementwise/elementwise.h"

#include "core/cuda_device.h"
#include "core/error.h"
#include "kernels/cuda/activation/swiglu.h"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/error.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {

void add(ExecutionContext& ctx, const Tensor& out, const Tensor& a, const Tensor& b) {
  if (ctx.planning) return;
  for_activation_type(out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::add(out.raw<T>(), a.raw<T>(), b.raw<T>(), out.numel(), stream_of(ctx));
  });
}

void convert(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  if (ctx.planning) return;
  for_activation_type(out, [&](auto* out_type) {
    for_activation_type(x, [&](auto* in_type) {
      cuda::convert(out.raw<Element<decltype(out_type)>>(), out.stride(), x.raw<Element<decltype(in_type)>>(),
                    x.stride(), x.size(0), x.size(1), stream_of(ctx));
    });
  });
}

void fill_zero(ExecutionContext& ctx, const Tensor& x) {
  if (ctx.planning || x.bytes() == 0) return;
  DT_CUDA_CHECK(cudaMemsetAsync(x.raw(), 0, x.bytes(), stream_of(ctx)));
}

void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  if (ctx.planning || x.bytes() == 0) return;
  DT_CUDA_CHECK(cudaMemcpyAsync(out.raw(), x.raw(), x.bytes(), cudaMemcpyDefault, stream_of(ctx)));
}

void swiglu(ExecutionContext& ctx, const Tensor& out, const Tensor& gate, const Tensor& up) {
  if (ctx.planning) return;
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::swiglu(out.raw<T>(), gate.raw<T>(), up.raw<T>(), gate.stride(), gate.size(0), gate.size(1), stream_of(ctx));
  });
}

void swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                     const Tensor& gate, const Tensor& up) {
  if (ctx.planning) return;
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::swiglu_backward(d_gate.raw<T>(), d_up.raw<T>(), d_gate.stride(), d_out.raw<T>(), gate.raw<T>(), up.raw<T>(),
                          gate.stride(), gate.size(0), gate.size(1), stream_of(ctx));
  });
}

void grouped_swiglu(ExecutionContext& ctx, const Tensor& out, const Tensor& gate, const Tensor& up,
                    const RowGroups& groups) {
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::grouped_swiglu(out.raw<T>(), gate.raw<T>(), up.raw<T>(), gate.stride(), group_rows(groups), gate.size(0),
                         gate.size(1), stream_of(ctx));
  });
}

void grouped_swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                             const Tensor& gate, const Tensor& up, const RowGroups& groups) {
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::grouped_swiglu_backward(d_gate.raw<T>(), d_up.raw<T>(), d_gate.stride(), d_out.raw<T>(), gate.raw<T>(),
                                  up.raw<T>(), gate.stride(), group_rows(groups), gate.size(0), gate.size(1),
                                  stream_of(ctx));
  });
}

void embedding(ExecutionContext& ctx, const Tensor& out, const Tensor& table, const Tensor& ids) {
  if (ctx.planning) return;
  for_activation_type(out, [&](auto* out_type) {
    for_activation_type(table, [&](auto* table_type) {
      using Out = Element<decltype(out_type)>;
      using Table = Element<decltype(table_type)>;
      if constexpr (std::is_same_v<Out, float> && std::is_same_v<Table, bfloat16>) {
        fail("embedding into f32 has no kernel for {}", table.describe());
      } else {
        cuda::embedding_gather(out.raw<Out>(), table.raw<Table>(), ids.raw<int32_t>(), ids.size(0), table.size(0),
                               table.size(1), stream_of(ctx));
      }
    });
  });
}

void embedding_backward(ExecutionContext& ctx, const Tensor& d_table, const Tensor& d_out, const Tensor& ids) {
  if (ctx.planning) return;
  for_activation_type(d_out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::embedding_scatter_add(d_table.raw<float>(), d_out.raw<T>(), ids.raw<int32_t>(), ids.size(0), d_table.size(0),
                                d_table.size(1), stream_of(ctx));
  });
}

bool all_finite(const ExecutionContext& ctx, const Tensor& x) {
  if (x.dtype() != DType::kF32 && x.dtype() != DType::kBF16) return true;
  Arena arena("finiteness", x.device());
  arena.take(DType::kI32, {1});
  arena.allocate();
  const Tensor found = arena.take(DType::kI32, {1});
  const int64_t rows = x.contiguous() ? 1 : x.size(0);
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::find_not_finite(found.raw<int32_t>(), x.raw<T>(), x.stride(), rows, x.numel() / rows, stream_of(ctx));
  });
  int32_t result = 0;
  cuda::copy(&result, found.raw(), sizeof result);
  return result == 0;
}

}  // namespace deeptitan::on_cuda

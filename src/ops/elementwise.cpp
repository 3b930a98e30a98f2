#include "ops/elementwise.h"

#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "kernels/cpu/activation/swiglu.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cpu/embedding/embedding.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {
namespace {

void check_ids(const Tensor& ids, int64_t vocab) {
  for (int64_t t = 0; t < ids.size(0); ++t) {
    const int32_t id = ids.host<int32_t>()[t];
    DT_CHECK(0 <= id && id < vocab, "token id {} at place {} is outside the embedding's {} rows", id, t, vocab);
  }
}

}  // namespace

void add(ExecutionContext& ctx, const Tensor& out, const Tensor& a, const Tensor& b) {
  DT_CHECK(out.same_shape(a) && out.same_shape(b) && out.dtype() == a.dtype() && out.dtype() == b.dtype(),
           "add: {} = {} + {}", out.describe(), a.describe(), b.describe());
  check_contiguous("add", {out, a, b});
  OpScope op(ctx, "add", 0);
  DT_LEAVE_FOR_CUDA(add, out, a, b);
  if (!op.launch()) return;
  for_activation_type("add", out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add(out.host<T>(), a.host<T>(), b.host<T>(), out.numel());
  });
  op.check({out});
}

void convert(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  DT_CHECK(out.same_shape(x) && out.rank() == 2, "convert: {} from {}", out.describe(), x.describe());
  OpScope op(ctx, "convert", 0);
  DT_LEAVE_FOR_CUDA(convert, out, x);
  if (!op.launch()) return;
  for_activation_type("convert", out, [&](auto* out_type) {
    for_activation_type("convert", x, [&](auto* in_type) {
      using Out = Element<decltype(out_type)>;
      using In = Element<decltype(in_type)>;
      if constexpr (std::is_same_v<Out, In>) {
        for (int64_t r = 0; r < x.size(0); ++r) {
          std::memcpy(out.host<Out>() + r * out.stride(), x.host<In>() + r * x.stride(), x.size(1) * sizeof(In));
        }
      } else {
        cpu::convert(out.host<Out>(), out.stride(), x.host<In>(), x.stride(), x.size(0), x.size(1));
      }
    });
  });
}

void fill_zero(ExecutionContext& ctx, const Tensor& x) {
  check_contiguous("fill_zero", {x});
  OpScope op(ctx, "fill_zero", 0);
  DT_LEAVE_FOR_CUDA(fill_zero, x);
  if (!op.launch()) return;
  for_activation_type("fill_zero", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::fill_zero(x.host<T>(), x.numel());
  });
}

void swiglu(ExecutionContext& ctx, const Tensor& out, const Tensor& gate, const Tensor& up) {
  check_tensor(out, "out", gate.dtype(), {gate.size(0), gate.size(1)});
  DT_CHECK(gate.same_shape(up) && gate.stride() == up.stride(),
           "swiglu: gate {} and up {} are not slices of one buffer", gate.describe(), up.describe());
  check_contiguous("swiglu", {out});
  OpScope op(ctx, "swiglu", 0);
  DT_LEAVE_FOR_CUDA(swiglu, out, gate, up);
  if (!op.launch()) return;
  for_activation_type("swiglu", gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::swiglu(out.host<T>(), gate.host<T>(), up.host<T>(), gate.stride(), gate.size(0), gate.size(1));
  });
  op.check({out});
}

void swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                     const Tensor& gate, const Tensor& up) {
  check_tensor(d_out, "d_out", gate.dtype(), {gate.size(0), gate.size(1)});
  DT_CHECK(gate.same_shape(d_gate) && d_gate.same_shape(d_up) && d_gate.stride() == d_up.stride(),
           "swiglu_backward: d_gate {} and d_up {} are not slices of one buffer", d_gate.describe(), d_up.describe());
  check_contiguous("swiglu_backward", {d_out});
  OpScope op(ctx, "swiglu_backward", 0);
  DT_LEAVE_FOR_CUDA(swiglu_backward, d_gate, d_up, d_out, gate, up);
  if (!op.launch()) return;
  for_activation_type("swiglu_backward", gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::swiglu_backward(d_gate.host<T>(), d_up.host<T>(), d_gate.stride(), d_out.host<T>(), gate.host<T>(),
                         up.host<T>(), gate.stride(), gate.size(0), gate.size(1));
  });
  op.check({d_gate, d_up});
}

void embedding(ExecutionContext& ctx, const Tensor& out, const Tensor& table, const Tensor& ids) {
  check_tensor(out, "out", out.dtype(), {ids.size(0), table.size(1)});
  check_tensor(ids, "ids", DType::kI32, {-1});
  check_contiguous("embedding", {out, table, ids});
  OpScope op(ctx, "embedding", 0);
  DT_LEAVE_FOR_CUDA(embedding, out, table, ids);
  if (!op.launch()) return;
  check_ids(ids, table.size(0));
  for_activation_type("embedding", out, [&](auto* out_type) {
    for_activation_type("embedding", table, [&](auto* table_type) {
      using Out = Element<decltype(out_type)>;
      using Table = Element<decltype(table_type)>;
      if constexpr (std::is_same_v<Out, float> && std::is_same_v<Table, bfloat16>) {
        fail("embedding: a table of bf16 is not read into f32");
      } else {
        cpu::embedding_gather(out.host<Out>(), table.host<Table>(), ids.host<int32_t>(), ids.size(0), table.size(1));
      }
    });
  });
  op.check({out});
}

void embedding_backward(ExecutionContext& ctx, const Tensor& d_table, const Tensor& d_out, const Tensor& ids) {
  check_tensor(d_table, "d_table", DType::kF32, {-1, d_out.size(1)});
  check_tensor(ids, "ids", DType::kI32, {d_out.size(0)});
  check_contiguous("embedding_backward", {d_table, d_out, ids});
  OpScope op(ctx, "embedding_backward", 0);
  DT_LEAVE_FOR_CUDA(embedding_backward, d_table, d_out, ids);
  if (!op.launch()) return;
  for_activation_type("embedding_backward", d_out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::embedding_scatter_add(d_table.host<float>(), d_out.host<T>(), ids.host<int32_t>(), ids.size(0),
                               d_table.size(1));
  });
  op.check({d_table});
}

}  // namespace deeptitan

#include "ops/elementwise.h"

#include <type_traits>

#include "core/error.h"
#include "kernels/cpu/activation/swiglu.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cpu/embedding/embedding.h"

namespace deeptitan::on_cpu {

void add(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& a, const Tensor& b) {
  for_activation_type(out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add(out.host<T>(), a.host<T>(), b.host<T>(), out.numel());
  });
}

void convert(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& x) {
  for_activation_type(out, [&](auto* out_type) {
    for_activation_type(x, [&](auto* in_type) {
      using Out = Element<decltype(out_type)>;
      using In = Element<decltype(in_type)>;
      if constexpr (std::is_same_v<Out, In>) {
        constexpr auto kSize = static_cast<int64_t>(sizeof(In));
        cpu::copy_rows(out.host<Out>(), out.stride() * kSize, x.host<In>(), x.stride() * kSize, x.size(0),
                       x.size(1) * kSize);
      } else {
        cpu::convert(out.host<Out>(), out.stride(), x.host<In>(), x.stride(), x.size(0), x.size(1));
      }
    });
  });
}

void fill_zero(ExecutionContext& /*ctx*/, const Tensor& x) {
  cpu::fill_zero(static_cast<float*>(x.raw()), x.bytes() / 4);
}

void swiglu(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& gate, const Tensor& up) {
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::swiglu(out.host<T>(), gate.host<T>(), up.host<T>(), gate.stride(), gate.size(0), gate.size(1));
  });
}

void swiglu_backward(ExecutionContext& /*ctx*/, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                     const Tensor& gate, const Tensor& up) {
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::swiglu_backward(d_gate.host<T>(), d_up.host<T>(), d_gate.stride(), d_out.host<T>(), gate.host<T>(),
                         up.host<T>(), gate.stride(), gate.size(0), gate.size(1));
  });
}

void grouped_swiglu(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& gate, const Tensor& up,
                    const RowGroups& groups) {
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::grouped_swiglu(out.host<T>(), gate.host<T>(), up.host<T>(), gate.stride(), group_rows(groups), gate.size(1));
  });
}

void grouped_swiglu_backward(ExecutionContext& /*ctx*/, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                             const Tensor& gate, const Tensor& up, const RowGroups& groups) {
  for_activation_type(gate, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::grouped_swiglu_backward(d_gate.host<T>(), d_up.host<T>(), d_gate.stride(), d_out.host<T>(), gate.host<T>(),
                                 up.host<T>(), gate.stride(), group_rows(groups), gate.size(1));
  });
}

void embedding(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& table, const Tensor& ids) {
  const int64_t tokens = ids.size(0);
  const int64_t outside = cpu::first_id_outside(ids.host<int32_t>(), tokens, table.size(0));
  DT_CHECK(outside == tokens, "token id {} at place {} is outside the embedding's {} rows",
           ids.host<int32_t>()[outside], outside, table.size(0));
  for_activation_type(out, [&](auto* out_type) {
    for_activation_type(table, [&](auto* table_type) {
      using Out = Element<decltype(out_type)>;
      using Table = Element<decltype(table_type)>;
      // bf16 into f32 was refused by the op's checks.
      if constexpr (!std::is_same_v<Out, float> || std::is_same_v<Table, float>) {
        cpu::embedding_gather(out.host<Out>(), table.host<Table>(), ids.host<int32_t>(), tokens, table.size(1));
      }
    });
  });
}

void embedding_backward(ExecutionContext& /*ctx*/, const Tensor& d_table, const Tensor& d_out, const Tensor& ids) {
  for_activation_type(d_out, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::embedding_scatter_add(d_table.host<float>(), d_out.host<T>(), ids.host<int32_t>(), ids.size(0),
                               d_table.size(1));
  });
}

}  // namespace deeptitan::on_cpu

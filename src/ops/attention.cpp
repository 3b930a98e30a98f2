#include "ops/attention.h"

#include <cstring>

#include "core/error.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/rope/rope.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {
namespace {

template <typename T>
cpu::AttentionInputs<T> inputs_of(const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                                  const Documents& documents, const AttentionShape& shape) {
  return {.query = query.host<T>(),
          .key_value = key_value.host<T>(),
          .key_rope = key_rope.host<T>(),
          .ld_key_rope = key_rope.stride(),
          .document_offset = documents.offset.host<int32_t>(),
          .documents = documents.offset.size(0) - 1,
          .longest = documents.longest,
          .heads = shape.heads,
          .nope_dim = shape.nope_dim,
          .rope_dim = shape.rope_dim,
          .value_dim = shape.value_dim,
          .scale = static_cast<float>(shape.scale)};
}

void check_inputs(const Tensor& query, const Tensor& key_value, const Tensor& key_rope, const AttentionShape& s) {
  const int64_t tokens = query.size(0);
  check_tensor(query, "query", query.dtype(), {tokens, s.heads * (s.nope_dim + s.rope_dim)});
  check_tensor(key_value, "key_value", query.dtype(), {tokens, s.heads * (s.nope_dim + s.value_dim)});
  check_tensor(key_rope, "key_rope", query.dtype(), {tokens, s.rope_dim});
  check_contiguous("attention", {query, key_value});
  // Two bf16 neighbours share a word of the products' operands.
  DT_CHECK(query.dtype() != DType::kBF16 || (s.nope_dim % 2 == 0 && s.rope_dim % 2 == 0 && s.value_dim % 2 == 0),
           "attention in bf16 needs even head sizes, found nope {}, rope {}, value {}", s.nope_dim, s.rope_dim,
           s.value_dim);
}

// Scores and values of the keys that tokens see, for documents of the longest length: half of them and the token
// itself.
double attention_flops(int64_t tokens, const Documents& documents, const AttentionShape& s) {
  return static_cast<double>(tokens * (documents.longest + 1) * s.heads * (s.nope_dim + s.rope_dim + s.value_dim));
}

}  // namespace

void rope_rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& cos,
                 const Tensor& sin, const Tensor& positions, bool halves, bool inverse) {
  const int64_t dim = 2 * cos.size(1);
  const int64_t width = x.size(1) / heads;
  DT_CHECK(first + dim <= width, "rope_rotate: columns {} to {} of heads of width {}", first, first + dim, width);
  check_tensor(sin, "sin", DType::kF32, {cos.size(0), cos.size(1)});
  check_tensor(positions, "positions", DType::kI32, {x.size(0)});
  OpScope op(ctx, "rope_rotate", 0);
  DT_LEAVE_FOR_CUDA(rope_rotate, x, heads, first, cos, sin, positions, halves, inverse);
  if (!op.launch()) return;
  for_activation_type("rope_rotate", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rope_rotate(x.host<T>() + first, x.stride(), heads, width, dim, cos.host<float>(), sin.host<float>(),
                     positions.host<int32_t>(), x.size(0), inverse,
                     halves ? cpu::RopePairs::kHalves : cpu::RopePairs::kNeighbours);
  });
  op.check({x});
}

void attention(ExecutionContext& ctx, const Tensor& out, const Tensor& log_sum_exp, const Tensor& query,
               const Tensor& key_value, const Tensor& key_rope, const Documents& documents,
               const AttentionShape& shape) {
  check_inputs(query, key_value, key_rope, shape);
  check_tensor(out, "out", query.dtype(), {query.size(0), shape.heads * shape.value_dim});
  check_contiguous("attention", {out, log_sum_exp});
  OpScope op(ctx, "attention", attention_flops(query.size(0), documents, shape));
  DT_LEAVE_FOR_CUDA(attention, out, log_sum_exp, query, key_value, key_rope, documents, shape);
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(
      cpu::attention_forward_workspace(documents.longest, shape.nope_dim, shape.rope_dim, shape.value_dim,
                                       static_cast<int64_t>(dtype_size(query.dtype()))));
  if (!op.launch()) return;
  for_activation_type("attention", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::attention_forward(out.host<T>(), log_sum_exp.defined() ? log_sum_exp.host<float>() : nullptr,
                           inputs_of<T>(query, key_value, key_rope, documents, shape), scratch);
  });
  op.check({out});
}

void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape) {
  check_inputs(query, key_value, key_rope, shape);
  check_inputs(d_query, d_key_value, d_key_rope, shape);
  check_contiguous("attention_backward", {d_out, out, log_sum_exp});
  // Four products beside the forward's two; the scores are multiplied again, which is not counted.
  OpScope op(ctx, "attention_backward", 2.0 * attention_flops(query.size(0), documents, shape));
  DT_LEAVE_FOR_CUDA(attention_backward, d_query, d_key_value, d_key_rope, d_out, out, log_sum_exp, query, key_value,
                    key_rope, documents, shape);
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(
      cpu::attention_backward_workspace(query.size(0), documents.longest, shape.heads, shape.nope_dim, shape.rope_dim,
                                        shape.value_dim, static_cast<int64_t>(dtype_size(query.dtype()))));
  if (!op.launch()) return;
  for_activation_type("attention_backward", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::attention_backward(
        cpu::AttentionGradients<T>{d_query.host<T>(), d_key_value.host<T>(), d_key_rope.host<T>(), d_key_rope.stride()},
        d_out.host<T>(), out.host<T>(), log_sum_exp.host<float>(),
        inputs_of<T>(query, key_value, key_rope, documents, shape), scratch);
  });
  op.check({d_query, d_key_value, d_key_rope});
}

void latent_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                      const CachedEntries& entries, int64_t heads, int64_t rope_dim, double scale) {
  const int64_t tokens = query.size(0);
  const int64_t latent_dim = cache.size(2) - rope_dim;
  check_tensor(query, "query", cache.dtype(), {tokens, heads * cache.size(2)});
  check_tensor(out, "out", cache.dtype(), {tokens, heads * latent_dim});
  check_tensor(entries.visible, "visible", DType::kI32, {tokens});
  check_tensor(entries.page_table, "page_table", DType::kI32, {tokens, -1});
  check_contiguous("latent_attention", {out, query, cache});
  DT_CHECK(cache.dtype() != DType::kBF16 || cache.size(2) % 2 == 0,
           "latent attention in bf16 needs an even entry, found {}", cache.size(2));
  OpScope op(ctx, "latent_attention",
             2.0 * static_cast<double>(tokens * entries.most_visible * heads * (cache.size(2) + latent_dim)));
  DT_LEAVE_FOR_CUDA(latent_attention, out, query, cache, entries, heads, rope_dim, scale);
  ArenaScope workspace(*ctx.workspace);
  void* scratch =
      workspace.take_bytes(cpu::latent_attention_workspace(tokens, entries.most_visible, heads, latent_dim, rope_dim));
  if (!op.launch()) return;
  for_activation_type("latent_attention", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::latent_attention(out.host<T>(),
                          cpu::LatentAttentionInputs<T>{.query = query.host<T>(),
                                                        .cache = cache.host<T>(),
                                                        .page_table = entries.page_table.host<int32_t>(),
                                                        .page_table_stride = entries.page_table.stride(),
                                                        .page_size = cache.size(1),
                                                        .visible = entries.visible.host<int32_t>(),
                                                        .tokens = tokens,
                                                        .most_visible = entries.most_visible,
                                                        .heads = heads,
                                                        .latent_dim = latent_dim,
                                                        .rope_dim = rope_dim,
                                                        .scale = static_cast<float>(scale)},
                          scratch);
  });
  op.check({out});
}

void write_latent_cache(ExecutionContext& ctx, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope) {
  const int64_t tokens = latent.size(0);
  const int64_t width = cache.size(2);
  check_tensor(latent, "latent", cache.dtype(), {tokens, width - key_rope.size(1)});
  check_tensor(key_rope, "key_rope", cache.dtype(), {tokens, -1});
  check_tensor(slot, "slot", DType::kI32, {tokens});
  OpScope op(ctx, "write_latent_cache", 0);
  DT_LEAVE_FOR_CUDA(write_latent_cache, cache, slot, latent, key_rope);
  if (!op.launch()) return;
  const int64_t entries = cache.size(0) * cache.size(1);
  for_activation_type("write_latent_cache", cache, [&](auto* element) {
    using T = Element<decltype(element)>;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t entry = slot.host<int32_t>()[t];
      DT_CHECK(0 <= entry && entry < entries, "cache slot {} of token {} is outside the {} cached entries", entry, t,
               entries);
      T* row = cache.host<T>() + entry * width;
      std::memcpy(row, latent.host<T>() + t * latent.stride(), latent.size(1) * sizeof(T));
      std::memcpy(row + latent.size(1), key_rope.host<T>() + t * key_rope.stride(), key_rope.size(1) * sizeof(T));
    }
  });
}

}  // namespace deeptitan

#include "kernels/cuda/attention/attention.h"

#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/rope/rope.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {
namespace {

template <typename T>
cpu::AttentionInputs<T> inputs_of(const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                                  const Documents& documents, const AttentionShape& shape) {
  return {.query = query.raw<T>(),
          .key_value = key_value.raw<T>(),
          .key_rope = key_rope.raw<T>(),
          .ld_key_rope = key_rope.stride(),
          .document_offset = documents.offset.raw<int32_t>(),
          .documents = documents.offset.size(0) - 1,
          .longest = documents.longest,
          .heads = shape.heads,
          .nope_dim = shape.nope_dim,
          .rope_dim = shape.rope_dim,
          .value_dim = shape.value_dim,
          .scale = static_cast<float>(shape.scale)};
}

}  // namespace

void rope_rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& cos,
                 const Tensor& sin, const Tensor& positions, bool halves, bool inverse) {
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::rope_rotate(x.raw<T>() + first, x.stride(), heads, x.size(1) / heads, 2 * cos.size(1), cos.raw<float>(),
                      sin.raw<float>(), positions.raw<int32_t>(), x.size(0), inverse, halves, stream_of(ctx));
  });
}

void attention(ExecutionContext& ctx, const Tensor& out, const Tensor& log_sum_exp, const Tensor& query,
               const Tensor& key_value, const Tensor& key_rope, const Documents& documents,
               const AttentionShape& shape) {
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::attention_forward(out.raw<T>(), raw_or_null<float>(log_sum_exp),
                            inputs_of<T>(query, key_value, key_rope, documents, shape), query.size(0), stream_of(ctx));
  });
}

void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(cuda::attention_backward_workspace(query.size(0), shape.heads, shape.rope_dim));
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::attention_backward(
        cpu::AttentionGradients<T>{d_query.raw<T>(), d_key_value.raw<T>(), d_key_rope.raw<T>(), d_key_rope.stride()},
        d_out.raw<T>(), out.raw<T>(), log_sum_exp.raw<float>(),
        inputs_of<T>(query, key_value, key_rope, documents, shape), query.size(0), scratch, stream_of(ctx));
  });
}

void latent_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                      const CachedEntries& entries, int64_t heads, int64_t rope_dim, double scale) {
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::latent_attention(out.raw<T>(),
                           cuda::LatentRows<T>{.query = query.raw<T>(),
                                               .cache = cache.raw<T>(),
                                               .rows = {},
                                               .visible = entries.visible.raw<int32_t>(),
                                               .page_table = entries.page_table.raw<int32_t>(),
                                               .page_table_stride = entries.page_table.stride(),
                                               .page_size = cache.size(1),
                                               .tokens = query.size(0),
                                               .heads = heads,
                                               .latent_dim = cache.size(2) - rope_dim,
                                               .rope_dim = rope_dim,
                                               .scale = static_cast<float>(scale)},
                           stream_of(ctx));
  });
}

void write_latent_cache(ExecutionContext& ctx, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope) {
  if (ctx.planning) return;
  for_activation_type(cache, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::write_latent_cache<T>(cache.raw<T>(), cache.size(0) * cache.size(1), slot.raw<int32_t>(), latent.raw<T>(),
                                latent.stride(), latent.size(1), key_rope.raw<T>(), key_rope.stride(), key_rope.size(1),
                                latent.size(0), stream_of(ctx));
  });
}

}  // namespace deeptitan::on_cuda

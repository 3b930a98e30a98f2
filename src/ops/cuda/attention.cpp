#include "kernels/cuda/attention/attention.h"

#include <limits>

#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/rope/rope.h"
#include "ops/attention_inputs.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {
namespace {

// The plain form of both: the rows of sequences with `least` to `most` rows attend over latents, with W_key [H, Dn, L]
// multiplied into the query and W_value [H, Dv, L] into the result. Expanding changes the cost, not the values.
struct RowsMeant {
  int64_t least;
  int64_t most;
};
void attend_in_latent_space(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                            const CachedSequences& sequences, const Tensor& key_rows, const Tensor& value_rows,
                            const AttentionShape& s, const RowsMeant& meant) {
  const int64_t tokens = query.size(0);
  const int64_t head = s.nope_dim + s.rope_dim;
  const int64_t width = cache.size(2);
  const int64_t latent_dim = width - s.rope_dim;
  ArenaScope workspace(*ctx.workspace);
  const Tensor latent_query = workspace.take(cache.dtype(), {tokens, s.heads * width});
  const Tensor latent_out = workspace.take(cache.dtype(), {tokens, s.heads * latent_dim});
  const Tensor result = workspace.take(cache.dtype(), {tokens, s.heads * s.value_dim});
  if (ctx.planning) return;
  const cuda::SequenceRows rows{.query_offset = sequences.query_offset.raw<int32_t>(),
                                .sequences = sequences.cached_length.size(0),
                                .least = meant.least,
                                .most = meant.most};
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::multiply_strided(cuda::StridedProduct<T, T>{.c = latent_query.raw<T>(),
                                                      .c_row = s.heads * width,
                                                      .c_batch = width,
                                                      .a = query.raw<T>(),
                                                      .a_row = query.stride(),
                                                      .a_step = 1,
                                                      .a_batch = head,
                                                      .b = key_rows.raw<T>(),
                                                      .b_step = latent_dim,
                                                      .b_column = 1,
                                                      .b_batch = s.nope_dim * latent_dim,
                                                      .rows = tokens,
                                                      .steps = s.nope_dim,
                                                      .columns = latent_dim,
                                                      .batches = s.heads},
                           stream_of(ctx));
    for (int64_t h = 0; h < s.heads; ++h) {
      cuda::convert(latent_query.raw<T>() + h * width + latent_dim, s.heads * width,
                    query.raw<T>() + h * head + s.nope_dim, query.stride(), tokens, s.rope_dim, stream_of(ctx));
    }
    cuda::latent_attention(latent_out.raw<T>(),
                           cuda::LatentRows<T>{.query = latent_query.raw<T>(),
                                               .cache = cache.raw<T>(),
                                               .rows = rows,
                                               .cached_length = sequences.cached_length.raw<int32_t>(),
                                               .page_table = sequences.page_table.raw<int32_t>(),
                                               .page_table_stride = sequences.page_table.stride(),
                                               .page_size = cache.size(1),
                                               .tokens = tokens,
                                               .heads = s.heads,
                                               .latent_dim = latent_dim,
                                               .rope_dim = s.rope_dim,
                                               .scale = static_cast<float>(s.scale)},
                           stream_of(ctx));
    cuda::multiply_strided(cuda::StridedProduct<T, T>{.c = result.raw<T>(),
                                                      .c_row = s.heads * s.value_dim,
                                                      .c_batch = s.value_dim,
                                                      .a = latent_out.raw<T>(),
                                                      .a_row = s.heads * latent_dim,
                                                      .a_step = 1,
                                                      .a_batch = latent_dim,
                                                      .b = value_rows.raw<T>(),
                                                      .b_step = 1,
                                                      .b_column = latent_dim,
                                                      .b_batch = s.value_dim * latent_dim,
                                                      .rows = tokens,
                                                      .steps = latent_dim,
                                                      .columns = s.value_dim,
                                                      .batches = s.heads},
                           stream_of(ctx));
    cuda::copy_sequence_rows(out.raw<T>(), result.raw<T>(), s.heads * s.value_dim, tokens, rows, stream_of(ctx));
  });
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
                            attention_inputs<T>(query, key_value, key_rope, documents, shape), query.size(0), stream_of(ctx));
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
        attention_inputs<T>(query, key_value, key_rope, documents, shape), query.size(0), scratch, stream_of(ctx));
  });
}

void expanded_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& shape) {
  attend_in_latent_space(ctx, out, query, cache, sequences, key_weight.forward, value_weight.forward, shape,
                         {.least = kExpandedRows, .most = std::numeric_limits<int32_t>::max()});
}

void absorbed_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& shape) {
  attend_in_latent_space(ctx, out, query, cache, sequences, key_weight.backward_input, value_weight.forward, shape,
                         {.least = 0, .most = kExpandedRows - 1});
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

#include "ops/attention.h"

#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/attention/cached_attention.h"
#include "kernels/cpu/rope/rope.h"
#include "ops/attention_inputs.h"

namespace deeptitan::on_cpu {

static_assert(kExpandedRows == cpu::kExpandedRows);

namespace {

int64_t element_size(const Tensor& tensor) {
  return static_cast<int64_t>(dtype_size(tensor.dtype()));
}

cpu::HeadWeights head_weights(const Tensor& packed) {
  return {packed.host<uint32_t>(), packed.stride()};
}

template <typename T>
cpu::CachedAttention<T> cached_inputs(const Tensor& query, const Tensor& cache, const CachedSequences& sequences,
                                      const AttentionShape& s) {
  return {.query = query.host<T>(),
          .cache = cache.host<T>(),
          .sequences = {.query_offset = sequences.query_offset.host<int32_t>(),
                        .cached_length = sequences.cached_length.host<int32_t>(),
                        .page_table = sequences.page_table.host<int32_t>(),
                        .page_table_stride = sequences.page_table.stride(),
                        .page_size = cache.size(1),
                        .sequences = sequences.cached_length.size(0),
                        .tokens = query.size(0),
                        .max_query = sequences.max_query,
                        .max_visible = sequences.max_visible},
          .heads = s.heads,
          .nope_dim = s.nope_dim,
          .rope_dim = s.rope_dim,
          .value_dim = s.value_dim,
          .latent_dim = cache.size(2) - s.rope_dim,
          .scale = static_cast<float>(s.scale)};
}

}  // namespace

void rope_rotate(ExecutionContext& /*ctx*/, const Tensor& x, int64_t heads, int64_t first, const Tensor& cos,
                 const Tensor& sin, const Tensor& positions, bool halves, bool inverse) {
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rope_rotate(x.host<T>() + first, x.stride(), heads, x.size(1) / heads, 2 * cos.size(1), cos.host<float>(),
                     sin.host<float>(), positions.host<int32_t>(), x.size(0), inverse,
                     halves ? cpu::RopePairs::kHalves : cpu::RopePairs::kNeighbours);
  });
}

void attention(ExecutionContext& ctx, const Tensor& out, const Tensor& log_sum_exp, const Tensor& query,
               const Tensor& key_value, const Tensor& key_rope, const Documents& documents,
               const AttentionShape& shape) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(cpu::attention_forward_workspace(
      documents.longest, shape.nope_dim, shape.rope_dim, shape.value_dim, element_size(query)));
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::attention_forward(out.host<T>(), host_or_null(log_sum_exp),
                           attention_inputs<T>(query, key_value, key_rope, documents, shape), scratch);
  });
}

void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(cpu::attention_backward_workspace(query.size(0), documents.longest, shape.heads,
                                                                         shape.nope_dim, shape.rope_dim,
                                                                         shape.value_dim, element_size(query)));
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::attention_backward(
        cpu::AttentionGradients<T>{d_query.host<T>(), d_key_value.host<T>(), d_key_rope.host<T>(), d_key_rope.stride()},
        d_out.host<T>(), out.host<T>(), log_sum_exp.host<float>(),
        attention_inputs<T>(query, key_value, key_rope, documents, shape), scratch);
  });
}

void expanded_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& s) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(cpu::expanded_attention_workspace(
      cpu::ExpandedSize{sequences.max_query, sequences.max_visible, s.nope_dim + s.rope_dim, s.value_dim},
      element_size(query)));
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::expanded_attention(out.host<T>(), cached_inputs<T>(query, cache, sequences, s),
                            head_weights(key_weight.forward), head_weights(value_weight.forward), scratch);
  });
}

void absorbed_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& s) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(
      cpu::absorbed_attention_workspace(query.size(0), sequences.cached_length.size(0), sequences.max_visible, s.heads,
                                        cache.size(2) - s.rope_dim, s.rope_dim, element_size(query)));
  if (ctx.planning) return;
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::absorbed_attention(out.host<T>(), cached_inputs<T>(query, cache, sequences, s),
                            head_weights(key_weight.backward_input), head_weights(value_weight.forward), scratch);
  });
}

void write_latent_cache(ExecutionContext& /*ctx*/, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope) {
  for_activation_type(cache, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::write_latent_cache(cache.host<T>(), slot.host<int32_t>(), latent.host<T>(), latent.stride(),
                            key_rope.host<T>(), key_rope.stride(), latent.size(0), latent.size(1), key_rope.size(1),
                            cache.size(0) * cache.size(1));
  });
}

}  // namespace deeptitan::on_cpu

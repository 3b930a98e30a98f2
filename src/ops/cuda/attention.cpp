#include "kernels/cuda/attention/attention.h"

#include <algorithm>
#include <limits>

#include "core/cuda_device.h"
#include "kernels/cuda/attention/enter_latents.h"
#include "kernels/cuda/attention/few_latent.h"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/attention/sm90_attention_backward.h"
#include "kernels/cuda/attention/sm90_attention_forward.h"
#include "kernels/cuda/attention/sm90_expanded_attention.h"
#include "kernels/cuda/attention/sm90_latent_attention.h"
#include "kernels/cuda/attention/tensor_core_attention.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/matmul/dense_product.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/rope/rope.h"
#include "ops/attention_inputs.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {
namespace {

bool takes_hopper_kernels(const Tensor& x) {
  return x.dtype() == DType::kBF16 && !cuda::plain_kernels_wanted() && cuda::capability_major(x.device().index) == 9;
}

void attend(float* out, const cuda::LatentRows<float>& rows, bool /*by_warpgroups*/, int64_t /*capacity*/,
            float* /*workspace*/, cudaStream_t stream) {
  cuda::latent_attention(out, rows, stream);
}
void attend(bfloat16* out, const cuda::LatentRows<bfloat16>& rows, bool by_warpgroups, int64_t capacity,
            float* workspace, cudaStream_t stream) {
  if (by_warpgroups) return cuda::sm90_latent_attention(out, rows, capacity, workspace, stream);
  if (!cuda::plain_kernels_wanted() && cuda::latent_tiles_fit(rows)) {
    return cuda::latent_attention_by_tiles(out, rows, capacity, workspace, stream);
  }
  cuda::latent_attention(out, rows, stream);
}

cuda::EnteredLatents entered_latents(const LatentEntries& e, const Tensor& cache) {
  return {.cache = cache.raw<bfloat16>(),
          .entries = cache.size(0) * cache.size(1),
          .slot = e.slot.raw<int32_t>(),
          .kv_latent = e.kv_latent.raw<bfloat16>(),
          .ld_latent = e.kv_latent.stride(),
          .norm_weight = e.norm_weight.raw<float>(),
          .epsilon = static_cast<float>(e.epsilon),
          .cos = e.cos.raw<float>(),
          .sin = e.sin.raw<float>(),
          .positions = e.positions.raw<int32_t>(),
          .halves = e.halves};
}

cuda::EnteredPrompt entered_prompt(const LatentEntries& e, const Tensor& cache, const AttentionShape& s) {
  return {.entered = entered_latents(e, cache),
          .query = e.query.raw<bfloat16>(),
          .ld_query = e.query.stride(),
          .tokens = e.query.size(0),
          .heads = s.heads,
          .nope_dim = s.nope_dim,
          .rope_dim = s.rope_dim,
          .latent_dim = cache.size(2) - s.rope_dim};
}

/// All but what only a run has: sizes, types and addresses of weights.
cuda::FewLatentTokens few_tokens(const LatentEntries& e, const Tensor& cache, const PreparedWeight& key_weight,
                                 const PreparedWeight& value_weight, const AttentionShape& s) {
  return {.query = e.query.raw<bfloat16>(),
          .ld_query = e.query.stride(),
          .key_weight = key_weight.backward_input.raw<bfloat16>(),
          .value_weight = value_weight.forward.raw<bfloat16>(),
          .nope_dim = s.nope_dim,
          .value_dim = s.value_dim,
          .entries = {.cache = cache.raw<bfloat16>(),
                      .page_size = cache.size(1),
                      .tokens = e.query.size(0),
                      .heads = s.heads,
                      .latent_dim = cache.size(2) - s.rope_dim,
                      .rope_dim = s.rope_dim,
                      .scale = static_cast<float>(s.scale)},
          .entered = entered_latents(e, cache)};
}

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
  // Where no sequence takes the other form, all rows are written here, padding with zeros.
  const bool all_meant = meant.least == 0 && sequences.max_query <= meant.most && out.contiguous();
  const Tensor result = all_meant ? out : workspace.take(cache.dtype(), {tokens, s.heads * s.value_dim});
  const Tensor splits = workspace.take(
      DType::kF32, {std::max(cuda::latent_tiles_workspace(tokens, s.heads, latent_dim, sequences.max_visible),
                             cuda::sm90_latent_attention_workspace(tokens, s.heads, sequences.max_visible))});
  const bool by_library = !cuda::plain_kernels_wanted() && cache.dtype() == DType::kBF16;
  void* scratch = workspace.take_bytes(by_library ? static_cast<int64_t>(cuda::kDenseWorkspaceBytes) : 0);
  if (ctx.planning) return;
  const cuda::SequenceRows rows{.query_offset = sequences.query_offset.raw<int32_t>(),
                                .sequences = sequences.cached_length.size(0),
                                .least = meant.least,
                                .most = meant.most};
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    const cuda::LatentRows<T> latent_rows{.query = latent_query.raw<T>(),
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
                                          .scale = static_cast<float>(s.scale)};
    bool by_warpgroups = false;
    if constexpr (std::is_same_v<T, bfloat16>) {
      by_warpgroups = takes_hopper_kernels(query) && cuda::sm90_latent_attention_fits(latent_rows);
    }
    const cuda::DenseProduct queries{
        .output = latent_query.raw(),
        .output_stride = s.heads * width,
        .f32_output = false,
        .left = {query.raw(), tokens, s.nope_dim, query.stride(), false, head},
        .right = {key_rows.raw(), s.nope_dim, latent_dim, latent_dim, false, s.nope_dim * latent_dim},
        .batches = s.heads,
        .output_batch = width};
    if (by_library && tokens > cuda::kFewLatentTokens && cuda::dense_product_fits(queries)) {
      cuda::multiply_dense(queries, scratch, stream_of(ctx));
    } else {
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
    }
    cuda::convert(latent_query.raw<T>() + latent_dim, width, query.raw<T>() + s.nope_dim, head, tokens * s.heads,
                  s.rope_dim, stream_of(ctx));
    attend(latent_out.raw<T>(), latent_rows, by_warpgroups, sequences.max_visible, splits.raw<float>(), stream_of(ctx));
    const cuda::DenseProduct values{
        .output = result.raw(),
        .output_stride = s.heads * s.value_dim,
        .f32_output = false,
        .left = {latent_out.raw(), tokens, latent_dim, s.heads * latent_dim, false, latent_dim},
        .right = {value_rows.raw(), s.value_dim, latent_dim, latent_dim, true, s.value_dim * latent_dim},
        .batches = s.heads,
        .output_batch = s.value_dim};
    if (by_library && tokens > cuda::kFewLatentTokens && cuda::dense_product_fits(values)) {
      cuda::multiply_dense(values, scratch, stream_of(ctx));
    } else {
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
    }
    if (all_meant) return;
    cuda::copy_sequence_rows(out.raw<T>(), result.raw<T>(), s.heads * s.value_dim, tokens, rows, stream_of(ctx));
  });
}

/// Pointers only where not planning.
cuda::ExpandedAttention expanded_on_hopper(const Tensor& query, const Tensor& cache, const CachedSequences& sequences,
                                           const Tensor& key_rows, const Tensor& value_rows, const AttentionShape& s,
                                           bool planning) {
  cuda::ExpandedAttention expanded{.rows = {.sequences = sequences.cached_length.size(0), .least = kExpandedRows},
                                   .page_table_stride = sequences.page_table.stride(),
                                   .page_size = cache.size(1),
                                   .most_visible = sequences.max_visible,
                                   .tokens = query.size(0),
                                   .heads = s.heads,
                                   .nope_dim = s.nope_dim,
                                   .rope_dim = s.rope_dim,
                                   .value_dim = s.value_dim,
                                   .latent_dim = cache.size(2) - s.rope_dim,
                                   .scale = static_cast<float>(s.scale)};
  if (planning || query.dtype() != DType::kBF16) return expanded;
  expanded.query = query.raw<bfloat16>();
  expanded.cache = cache.raw<bfloat16>();
  expanded.key_weight = key_rows.raw<bfloat16>();
  expanded.value_weight = value_rows.raw<bfloat16>();
  expanded.rows.query_offset = sequences.query_offset.raw<int32_t>();
  expanded.cached_length = sequences.cached_length.raw<int32_t>();
  expanded.page_table = sequences.page_table.raw<int32_t>();
  return expanded;
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
  ArenaScope workspace(*ctx.workspace);
  const bool by_warpgroups = takes_hopper_kernels(query);
  void* scratch = workspace.take_bytes(
      by_warpgroups ? cuda::sm90_attention_forward_workspace(query.size(0), documents.offset.size(0) - 1) : 0);
  if (ctx.planning) return;
  if (query.dtype() == DType::kBF16 && !cuda::plain_kernels_wanted()) {
    const auto inputs = attention_inputs<bfloat16>(query, key_value, key_rope, documents, shape);
    if (by_warpgroups && cuda::sm90_attention_fits(inputs)) {
      return cuda::sm90_attention_forward(out.raw<bfloat16>(), raw_or_null<float>(log_sum_exp), inputs, query.size(0),
                                          scratch, stream_of(ctx));
    }
    if (cuda::tensor_core_attention_fits(inputs)) {
      return cuda::tensor_core_attention_forward(out.raw<bfloat16>(), raw_or_null<float>(log_sum_exp), inputs,
                                                 query.size(0), stream_of(ctx));
    }
  }
  for_activation_type(query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::attention_forward(out.raw<T>(), raw_or_null<float>(log_sum_exp),
                            attention_inputs<T>(query, key_value, key_rope, documents, shape), query.size(0),
                            stream_of(ctx));
  });
}

void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape) {
  ArenaScope workspace(*ctx.workspace);
  const bool by_tiles = query.dtype() == DType::kBF16 && !cuda::plain_kernels_wanted();
  int64_t scratch_bytes = cuda::attention_backward_workspace(query.size(0), shape.heads, shape.rope_dim);
  if (by_tiles && cuda::sm90_attention_backward_takes(shape.nope_dim, shape.rope_dim, shape.value_dim)) {
    scratch_bytes = std::max(scratch_bytes, cuda::sm90_attention_backward_workspace(query.size(0), shape.heads));
  }
  void* scratch = workspace.take_bytes(scratch_bytes);
  if (ctx.planning) return;
  if (by_tiles) {
    const auto inputs = attention_inputs<bfloat16>(query, key_value, key_rope, documents, shape);
    const bool hopper = cuda::sm90_attention_backward_fits(inputs);
    if (hopper || cuda::tensor_core_attention_fits(inputs)) {
      const auto backward = hopper ? cuda::sm90_attention_backward : cuda::tensor_core_attention_backward;
      return backward(
          {d_query.raw<bfloat16>(), d_key_value.raw<bfloat16>(), d_key_rope.raw<bfloat16>(), d_key_rope.stride()},
          d_out.raw<bfloat16>(), out.raw<bfloat16>(), log_sum_exp.raw<float>(), inputs, query.size(0), scratch,
          stream_of(ctx));
    }
  }
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
  if (sequences.max_query < kExpandedRows) return;  // nobody's rows; absorbed_attention clears the padding
  const cuda::ExpandedAttention expanded =
      expanded_on_hopper(query, cache, sequences, key_weight.forward, value_weight.forward, shape, ctx.planning);
  if (takes_hopper_kernels(query) && cuda::sm90_expanded_attention_fits(expanded)) {
    ArenaScope workspace(*ctx.workspace);
    void* scratch = workspace.take_bytes(cuda::sm90_expanded_attention_workspace(expanded));
    if (!ctx.planning) cuda::sm90_expanded_attention(out.raw<bfloat16>(), expanded, scratch, stream_of(ctx));
    return;
  }
  attend_in_latent_space(ctx, out, query, cache, sequences, key_weight.forward, value_weight.forward, shape,
                         {.least = kExpandedRows, .most = std::numeric_limits<int32_t>::max()});
}

void absorbed_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& shape) {
  // One sequence that expands, and no padding: nobody's rows.
  const bool expanded = sequences.max_query >= kExpandedRows && sequences.cached_length.size(0) == 1 &&
                        sequences.max_query == query.size(0);
  if (expanded) return;
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

bool attention_of_few_fits(const LatentEntries& e, const Tensor& cache, const PreparedWeight& key_weight,
                           const PreparedWeight& value_weight, const AttentionShape& s) {
  return !cuda::plain_kernels_wanted() && cache.dtype() == DType::kBF16 &&
         cuda::few_latent_fit(few_tokens(e, cache, key_weight, value_weight, s));
}

void attention_of_few(ExecutionContext& ctx, const Tensor& out, const LatentEntries& e, const Tensor& cache,
                      const CachedSequences& sequences, const PreparedWeight& key_weight,
                      const PreparedWeight& value_weight, const AttentionShape& s) {
  cuda::FewLatentTokens in = few_tokens(e, cache, key_weight, value_weight, s);
  ArenaScope workspace(*ctx.workspace);
  const Tensor latent_query = workspace.take(cache.dtype(), {in.entries.tokens, s.heads * cache.size(2)});
  const Tensor splits = workspace.take(
      DType::kF32,
      {std::max(cuda::latent_tiles_workspace(in.entries.tokens, s.heads, in.entries.latent_dim, sequences.max_visible),
                cuda::sm90_latent_attention_workspace(in.entries.tokens, s.heads, sequences.max_visible))});
  if (ctx.planning) return;
  in.out = out.raw<bfloat16>();
  in.latent_query = latent_query.raw<bfloat16>();
  in.entries.query = in.latent_query;
  in.entries.rows = {.query_offset = sequences.query_offset.raw<int32_t>(),
                     .sequences = sequences.cached_length.size(0),
                     .least = 0,
                     .most = kExpandedRows - 1};
  in.entries.cached_length = sequences.cached_length.raw<int32_t>();
  in.entries.page_table = sequences.page_table.raw<int32_t>();
  in.entries.page_table_stride = sequences.page_table.stride();
  in.by_warpgroups = takes_hopper_kernels(cache) && cuda::sm90_latent_attention_fits(in.entries);
  cuda::few_latent_attention(in, sequences.max_visible, splits.raw<float>(), stream_of(ctx));
}

bool enter_latents_fits(const LatentEntries& e, const Tensor& cache, const AttentionShape& s) {
  return !cuda::plain_kernels_wanted() && cache.dtype() == DType::kBF16 &&
         cuda::enter_latents_fit(entered_prompt(e, cache, s));
}

void enter_latents(ExecutionContext& ctx, const LatentEntries& e, const Tensor& cache, const AttentionShape& s) {
  cuda::enter_latents(entered_prompt(e, cache, s), stream_of(ctx));
}

}  // namespace deeptitan::on_cuda

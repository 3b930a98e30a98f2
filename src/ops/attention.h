#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/linear.h"
#include "ops/op_scope.h"

// Attention and rotary positions. T tokens, H heads, Dn nope, Dr rope, Dv value dimensions, L latent rank.

namespace deeptitan {

/// Rotates pairs of elements of columns [first, first + Dr) of each head by their token's position, in place:
/// neighbours, or with `halves` elements i and i + Dr / 2. x is [T, H * width]; cos and sin are tables [positions, Dr /
/// 2]. Rows at a negative position, padding, are left as they are. `inverse` is the backward.
void rope_rotate(ExecutionContext& ctx, const Tensor& x /* [T, H * width] */, int64_t heads, int64_t first,
                 const Tensor& cos /* f32 [P, Dr / 2] */, const Tensor& sin /* f32 [P, Dr / 2] */,
                 const Tensor& positions /* i32 [T] */, bool halves, bool inverse);

/// The sizes of a head and the scale of the scores.
struct AttentionShape {
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t value_dim = 0;
  double scale = 1.0;
};

/// Documents packed behind one another: document d holds tokens offset[d] up to offset[d + 1].
struct Documents {
  Tensor offset;        // i32 [documents + 1]
  int64_t longest = 0;  // an upper bound of a document's tokens: what memory is planned for
};

/// Causal attention inside each document: out[t, h] = softmax(scale * q . k) v. log_sum_exp (undefined: not wanted) is
/// kept for the backward.
void attention(ExecutionContext& ctx, const Tensor& out /* [T, H * Dv] */, const Tensor& log_sum_exp /* f32 [T, H] */,
               const Tensor& query /* [T, H * (Dn + Dr)] */, const Tensor& key_value /* [T, H * (Dn + Dv)] */,
               const Tensor& key_rope /* [T, Dr] */, const Documents& documents, const AttentionShape& shape);

void attention_backward(ExecutionContext& ctx, const Tensor& d_query /* [T, H * (Dn + Dr)] */,
                        const Tensor& d_key_value /* [T, H * (Dn + Dv)] */, const Tensor& d_key_rope /* [T, Dr] */,
                        const Tensor& d_out /* [T, H * Dv] */, const Tensor& out /* [T, H * Dv] */,
                        const Tensor& log_sum_exp /* f32 [T, H] */, const Tensor& query, const Tensor& key_value,
                        const Tensor& key_rope, const Documents& documents, const AttentionShape& shape);

/// The sequences of a batch and what each has cached: sequence s holds the query rows query_offset[s] up to
/// query_offset[s + 1], which stand behind cached_length[s] entries of its own. Entry i is row i % page_size of page
/// page_table[s, i / page_size]. Rows from the last offset on are padding.
struct CachedSequences {
  Tensor query_offset;    // i32 [sequences + 1]
  Tensor cached_length;   // i32 [sequences]
  Tensor page_table;      // i32 [sequences, pages]
  int64_t max_query = 0;  // upper bounds of the rows of a sequence, and of the entries that a row sees: what memory is
  int64_t max_visible = 0;  // planned for
};

/// A sequence with at least this many query rows in a batch expands its latents, else it absorbs: see the two ops.
inline constexpr int64_t kExpandedRows = 64;

/// Attention over cached latents in expanded form, for the rows of sequences with at least kExpandedRows rows; the
/// others are left alone. Keys and values are made from the latents head by head, so that a prompt that comes in chunks
/// has the bits of one that comes whole. key_weight is W_key [H][Dn, L], value_weight W_value [H][Dv, L].
void expanded_attention(ExecutionContext& ctx, const Tensor& out /* [T, H * Dv] */,
                        const Tensor& query /* [T, H * (Dn + Dr)] */,
                        const Tensor& cache /* [pages, page_size, L + Dr] */, const CachedSequences& sequences,
                        const PreparedWeight& key_weight, const PreparedWeight& value_weight,
                        const AttentionShape& shape);

/// The same in absorbed form, for the rows of sequences with fewer rows: key projection times query, attention over
/// latents, value projection times the result. key_weight is prepared for products with W_key itself, not its
/// transpose. Padding rows become zeros. Sequences of many rows may go on behind the last of T.
void absorbed_attention(ExecutionContext& ctx, const Tensor& out /* [T, H * Dv] */,
                        const Tensor& query /* [T, H * (Dn + Dr)] */,
                        const Tensor& cache /* [pages, page_size, L + Dr] */, const CachedSequences& sequences,
                        const PreparedWeight& key_weight, const PreparedWeight& value_weight,
                        const AttentionShape& shape);

/// cache[slot[t]] = (latent[t], key_rope[t]) where slot counts entries over all pages; -1 writes nothing.
void write_latent_cache(ExecutionContext& ctx, const Tensor& cache /* [pages, page_size, L + Dr] */,
                        const Tensor& slot /* i32 [T] */, const Tensor& latent /* [T, L] */,
                        const Tensor& key_rope /* [T, Dr] */);

/// What comes before attention through a cache.
struct LatentEntries {
  Tensor query;        // [T, H * (Dn + Dr)], not rotated
  Tensor kv_latent;    // [T, L + Dr]: neither normed nor rotated
  Tensor norm_weight;  // f32 [L]
  double epsilon = 0;
  Tensor cos, sin;   // f32 [P, Dr / 2]
  Tensor positions;  // i32 [T]
  bool halves = false;
  Tensor slot;  // i32 [T]
};

/// For few tokens: norms the latents, rotates and writes the entries, and attends: what rms_norm, rope_rotate,
/// write_latent_cache and absorbed_attention give one after another, each rounding where they round; entries.query and
/// kv_latent may be left as they are. False, and nothing is done, where the device has no form for these sizes and
/// types: then run those.
bool attention_of_few(ExecutionContext& ctx, const Tensor& out /* [T, H * Dv] */, const LatentEntries& entries,
                      const Tensor& cache /* [pages, page_size, L + Dr] */, const CachedSequences& sequences,
                      const PreparedWeight& key_weight, const PreparedWeight& value_weight,
                      const AttentionShape& shape);

/// For many tokens: norms the latents, rotates queries (in place) and keys and writes the entries, with the bits of
/// rms_norm, rope_rotate and write_latent_cache. kv_latent is left as it is. False, and nothing is done, where the
/// device has no form for these sizes and types: then run those.
bool enter_latents(ExecutionContext& ctx, const LatentEntries& entries,
                   const Tensor& cache /* [pages, page_size, L + Dr] */, const AttentionShape& shape);
namespace on_cuda {
bool enter_latents_fits(const LatentEntries& entries, const Tensor& cache, const AttentionShape& shape);
void enter_latents(ExecutionContext& ctx, const LatentEntries& entries, const Tensor& cache,
                   const AttentionShape& shape);
bool attention_of_few_fits(const LatentEntries& entries, const Tensor& cache, const PreparedWeight& key_weight,
                           const PreparedWeight& value_weight, const AttentionShape& shape);
void attention_of_few(ExecutionContext& ctx, const Tensor& out, const LatentEntries& entries, const Tensor& cache,
                      const CachedSequences& sequences, const PreparedWeight& key_weight,
                      const PreparedWeight& value_weight, const AttentionShape& shape);
}  // namespace on_cuda

DT_OP_FORMS(rope_rotate);
DT_OP_FORMS(attention);
DT_OP_FORMS(attention_backward);
DT_OP_FORMS(expanded_attention);
DT_OP_FORMS(absorbed_attention);
DT_OP_FORMS(write_latent_cache);

}  // namespace deeptitan

#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"

// Attention and rotary positions. T tokens, H heads, Dn nope, Dr rope, Dv value dimensions, L latent rank.

namespace deeptitan {

/// Rotates pairs of elements of columns [first, first + Dr) of each head by their token's position, in place:
/// neighbours, or with `halves` elements i and i + Dr / 2. x is [T, H * width]; cos and sin are tables [positions, Dr /
/// 2]. `inverse` is the backward.
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

/// Which cached entries each token sees: entry i of token t is row i % page_size of page page_table[t, i / page_size].
struct CachedEntries {
  Tensor page_table;         // i32 [T, pages]
  Tensor visible;            // i32 [T], the token itself included
  int64_t most_visible = 0;  // an upper bound of visible: what memory is planned for
};

/// Attention in the latent space: out[t, h] = softmax(scale * q . entry) latent.
void latent_attention(ExecutionContext& ctx, const Tensor& out /* [T, H * L] */,
                      const Tensor& query /* [T, H * (L + Dr)] */, const Tensor& cache /* [pages, page_size, L + Dr] */,
                      const CachedEntries& entries, int64_t heads, int64_t rope_dim, double scale);

/// cache[slot[t]] = (latent[t], key_rope[t]) where slot counts entries over all pages.
void write_latent_cache(ExecutionContext& ctx, const Tensor& cache /* [pages, page_size, L + Dr] */,
                        const Tensor& slot /* i32 [T] */, const Tensor& latent /* [T, L] */,
                        const Tensor& key_rope /* [T, Dr] */);

}  // namespace deeptitan

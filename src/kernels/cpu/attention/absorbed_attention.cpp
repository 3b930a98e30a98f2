#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/attention/cached_attention.h"
#include "kernels/cpu/attention/tile_products.h"
#include "kernels/cpu/matmul/matmul.h"

// scores = (q_nope W_key) . latent + q_rope . key_rope, and the value projection comes after the sum over entries: cost
// and memory a cached token are those of its latent, never of expanded keys and values.

namespace deeptitan::cpu {
namespace {

template <typename T>
struct AbsorbedScratch {
  int32_t* sequence;  // [rows]: of each row
  int32_t* visible;   // [rows]
  T* query;           // [rows, H, L + Dr]
  T* out;             // [rows, H, L]
  char* attention;    // of latent_attention

  AbsorbedScratch(Pieces& pieces, int64_t rows, int64_t heads, int64_t latent_dim, int64_t rope_dim) {
    sequence = pieces.take<int32_t>(rows);
    visible = pieces.take<int32_t>(rows);
    query = pieces.take<T>(rows * heads * (latent_dim + rope_dim));
    out = pieces.take<T>(rows * heads * latent_dim);
    attention = pieces.take<char>(0);
  }
};

// Most rows that absorb.
int64_t absorbed_rows(int64_t tokens, int64_t sequences) {
  return std::min(tokens, sequences * (kExpandedRows - 1));
}

// The rows of consecutive sequences, [first, end).
template <typename T>
void attend_rows_in_latent_space(T* out, const CachedAttention<T>& in, int64_t first, int64_t end,
                                 const HeadWeights& key_weight, const HeadWeights& value_weight,
                                 const AbsorbedScratch<T>& s) {
  const int64_t rows = end - first;
  const int64_t width = in.latent_dim + in.rope_dim;
  const int64_t key_dim = in.nope_dim + in.rope_dim;
  const T* query = in.query + first * in.heads * key_dim;
#pragma omp parallel for schedule(dynamic)
  for (int64_t h = 0; h < in.heads; ++h) {
    matmul(MatmulOutput<T>{s.query + h * width, in.heads * width, false}, query + h * key_dim, in.heads * key_dim,
           key_weight.packed + h * key_weight.stride, rows, in.nope_dim, in.latent_dim);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(s.query + (r * in.heads + h) * width + in.latent_dim,
                  query + (r * in.heads + h) * key_dim + in.nope_dim, in.rope_dim * sizeof(T));
    }
  }
  latent_attention(s.out,
                   LatentAttentionInputs<T>{.query = s.query,
                                            .cache = in.cache,
                                            .page_table = in.sequences.page_table,
                                            .page_table_stride = in.sequences.page_table_stride,
                                            .page_size = in.sequences.page_size,
                                            .table_row = s.sequence,
                                            .visible = s.visible,
                                            .tokens = rows,
                                            .most_visible = in.sequences.max_visible,
                                            .heads = in.heads,
                                            .latent_dim = in.latent_dim,
                                            .rope_dim = in.rope_dim,
                                            .scale = in.scale},
                   s.attention);
#pragma omp parallel for schedule(dynamic)
  for (int64_t h = 0; h < in.heads; ++h) {
    matmul(MatmulOutput<T>{out + (first * in.heads + h) * in.value_dim, in.heads * in.value_dim, false},
           s.out + h * in.latent_dim, in.heads * in.latent_dim, value_weight.packed + h * value_weight.stride, rows,
           in.latent_dim, in.value_dim);
  }
}

}  // namespace

int64_t absorbed_attention_workspace(int64_t tokens, int64_t sequences, int64_t max_visible, int64_t heads,
                                     int64_t latent_dim, int64_t rope_dim, int64_t element_size) {
  const int64_t rows = absorbed_rows(tokens, sequences);
  Pieces pieces(nullptr);
  if (element_size == 2) {
    AbsorbedScratch<bfloat16> counted(pieces, rows, heads, latent_dim, rope_dim);
  } else {
    AbsorbedScratch<float> counted(pieces, rows, heads, latent_dim, rope_dim);
  }
  return pieces.used() + latent_attention_workspace(rows, max_visible, heads, latent_dim, rope_dim);
}

template <typename T>
void absorbed_attention(T* out, const CachedAttention<T>& in, const HeadWeights& key_weight,
                        const HeadWeights& value_weight, void* workspace) {
  const BatchSequences& b = in.sequences;
  Pieces pieces(static_cast<char*>(workspace));
  const AbsorbedScratch<T> scratch(pieces, absorbed_rows(b.tokens, b.sequences), in.heads, in.latent_dim, in.rope_dim);
  for (int64_t s = 0; s < b.sequences;) {
    if (b.rows(s) >= kExpandedRows) {
      ++s;
      continue;
    }
    const int64_t first = b.query_offset[s];
    for (; s < b.sequences && b.rows(s) < kExpandedRows; ++s) {
      for (int64_t row = b.query_offset[s]; row < b.query_offset[s + 1]; ++row) {
        scratch.sequence[row - first] = static_cast<int32_t>(s);
        scratch.visible[row - first] = static_cast<int32_t>(b.cached_length[s] + row - b.query_offset[s] + 1);
      }
    }
    const int64_t end = b.query_offset[s];
    if (first < end) attend_rows_in_latent_space(out, in, first, end, key_weight, value_weight, scratch);
  }
  const int64_t padding = std::min<int64_t>(b.query_offset[b.sequences], b.tokens);
  std::fill(out + padding * in.heads * in.value_dim, out + b.tokens * in.heads * in.value_dim, T{});
}

template <typename T>
void write_latent_cache(T* cache, const int32_t* slot, const T* latent, int64_t ld_latent, const T* key_rope,
                        int64_t ld_key_rope, int64_t tokens, int64_t latent_dim, int64_t rope_dim, int64_t entries) {
  for (int64_t t = 0; t < tokens; ++t) {
    if (slot[t] == -1) continue;
    DT_CHECK(0 <= slot[t] && slot[t] < entries, "cache slot {} of token {} is outside the {} cached entries", slot[t],
             t, entries);
    T* row = cache + slot[t] * (latent_dim + rope_dim);
    std::memcpy(row, latent + t * ld_latent, latent_dim * sizeof(T));
    std::memcpy(row + latent_dim, key_rope + t * ld_key_rope, rope_dim * sizeof(T));
  }
}

template void absorbed_attention(float*, const CachedAttention<float>&, const HeadWeights&, const HeadWeights&, void*);
template void write_latent_cache(float*, const int32_t*, const float*, int64_t, const float*, int64_t, int64_t, int64_t,
                                 int64_t, int64_t);
template void absorbed_attention(bfloat16*, const CachedAttention<bfloat16>&, const HeadWeights&, const HeadWeights&,
                                 void*);
template void write_latent_cache(bfloat16*, const int32_t*, const bfloat16*, int64_t, const bfloat16*, int64_t, int64_t,
                                 int64_t, int64_t, int64_t);

}  // namespace deeptitan::cpu

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/attention/softmax_rows.h"
#include "kernels/cpu/attention/tile_products.h"

// A token's entries are cut into chunks of fixed size. One task takes one chunk for all heads of one token, or, where
// the heads are few, of some tokens of one sequence: their queries are the columns of one product with the chunk's
// entries, so each cached value is read once for all of them. The chunks' partial results are then merged in order.
// Tokens go through in small blocks, which bounds the workspace. What a token gets does not depend on those it shares
// tasks with: every sum is over its own entries in order, and what follows them has probability 0.

namespace deeptitan::cpu {
namespace {

constexpr int64_t kChunk = 256;
constexpr int64_t kGroupBlock = 8;

// Tokens of a task: as many as fill the columns of a panel with their heads.
int64_t group_tokens(int64_t heads) {
  return std::max<int64_t>(1, kPanelColumns / heads);
}
int64_t block_tokens(int64_t tokens, int64_t heads) {
  return std::min(tokens, kGroupBlock * group_tokens(heads));
}

// Consecutive tokens of one sequence, counted from the block's first.
struct TokenGroup {
  int64_t first;
  int64_t count;
};

// One chunk's share of a token's attention, per head: the largest scaled score, the sum of the exponentials relative
// to it, and the unnormalised output.
struct Partial {
  float* largest;  // [H]
  float* sum;      // [H]
  float* output;   // [H, L]

  Partial(Pieces& pieces, int64_t heads, int64_t latent_dim) {
    largest = pieces.take<float>(heads);
    sum = pieces.take<float>(heads);
    output = pieces.take<float>(heads * latent_dim);
  }
};

int64_t partial_bytes(int64_t heads, int64_t latent_dim) {
  Pieces pieces(nullptr);
  Partial counted(pieces, heads, latent_dim);
  return pieces.used();
}

template <typename T>
struct ChunkScratch {
  T* entries;               // [kChunk, L + Dr], gathered from the pages
  uint32_t* packed_query;   // contracted L + Dr, columns G H, of the tokens of a group
  uint32_t* packed_latent;  // contracted kChunk, columns L
  float* scores;            // [kChunk, G H]
  float* head_scores;       // [kChunk] of one head
  T* probabilities;         // [H, kChunk]

  ChunkScratch(Pieces& pieces, int64_t heads, int64_t latent_dim, int64_t rope_dim) {
    const int64_t columns = group_tokens(heads) * heads;
    entries = pieces.take<T>(kChunk * (latent_dim + rope_dim));
    packed_query = pieces.take<uint32_t>(packed_words(kOperand<T>, latent_dim + rope_dim, columns));
    packed_latent = pieces.take<uint32_t>(packed_words(kOperand<T>, kChunk, latent_dim));
    scores = pieces.take<float>(kChunk * columns);
    head_scores = pieces.take<float>(kChunk);
    probabilities = pieces.take<T>(heads * kChunk);
  }
};

// The fp32 case is the larger one, so one size serves both.
int64_t chunk_scratch_bytes(int64_t heads, int64_t latent_dim, int64_t rope_dim) {
  Pieces pieces(nullptr);
  ChunkScratch<float> counted(pieces, heads, latent_dim, rope_dim);
  return pieces.used();
}

// `partial_of(i)` is that of the group's token i, and `token` the group's first.
template <typename T, typename PartialOf>
void attend_to_chunk(const PartialOf& partial_of, const LatentAttentionInputs<T>& in, int64_t token, int64_t tokens,
                     int64_t chunk, ChunkScratch<T>& s) {
  const int64_t width = in.latent_dim + in.rope_dim;
  const int64_t begin = chunk * kChunk;
  const int64_t visible = *std::max_element(in.visible + token, in.visible + token + tokens);
  const int64_t most = std::min(kChunk, visible - begin);
  if (most <= 0) return;
  const int32_t* pages = in.page_table + in.table_row[token] * in.page_table_stride;
  for (int64_t i = 0; i < most;) {
    const int64_t entry = begin + i;
    const int64_t row = entry % in.page_size;
    const int64_t run = std::min(most - i, in.page_size - row);
    const T* page = in.cache + pages[entry / in.page_size] * in.page_size * width;
    std::copy_n(page + row * width, run * width, s.entries + i * width);
    i += run;
  }
  const int64_t columns = tokens * in.heads;
  pack_transposed(s.packed_query, in.query + token * in.heads * width, width, width, columns, kOperand<T>);
  product(s.scores, columns, false, s.entries, width, s.packed_query, most, width, columns, width);
  pack_direct(s.packed_latent, s.entries, width, most, in.latent_dim, kOperand<T>);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t count = std::min(kChunk, in.visible[token + t] - begin);
    if (count <= 0) continue;
    const Partial partial = partial_of(t);
    for (int64_t h = 0; h < in.heads; ++h) {
      for (int64_t i = 0; i < count; ++i) s.head_scores[i] = s.scores[i * columns + t * in.heads + h];
      const float shift = row_max(s.head_scores, count) * in.scale;
      partial.largest[h] = shift;
      partial.sum[h] = exponentials(s.probabilities + h * kChunk, s.head_scores, count, kChunk, in.scale, shift);
    }
    product(partial.output, in.latent_dim, false, s.probabilities, kChunk, s.packed_latent, in.heads, count,
            in.latent_dim, most);
  }
}

}  // namespace

int64_t latent_attention_workspace(int64_t tokens, int64_t most_visible, int64_t heads, int64_t latent_dim,
                                   int64_t rope_dim) {
  const int64_t chunks = (most_visible + kChunk - 1) / kChunk;
  return block_tokens(tokens, heads) * chunks * partial_bytes(heads, latent_dim) +
         omp_get_max_threads() * chunk_scratch_bytes(heads, latent_dim, rope_dim);
}

template <typename T>
void latent_attention(T* out, const LatentAttentionInputs<T>& in, void* workspace) {
  if (in.tokens == 0) return;
  const int64_t chunks = (in.most_visible + kChunk - 1) / kChunk;
  const int64_t bytes = partial_bytes(in.heads, in.latent_dim);
  const int64_t scratch_bytes = chunk_scratch_bytes(in.heads, in.latent_dim, in.rope_dim);
  char* partials = static_cast<char*>(workspace);
  char* scratch = partials + block_tokens(in.tokens, in.heads) * chunks * bytes;
  const auto partial_of = [&](int64_t slot, int64_t chunk) {
    Pieces pieces(partials + (slot * chunks + chunk) * bytes);
    return Partial(pieces, in.heads, in.latent_dim);
  };
  panel_product();  // chooses the instruction set here, where an error can still be thrown
  const int64_t most_tokens = block_tokens(in.tokens, in.heads), most_together = group_tokens(in.heads);
  for (int64_t first = 0; first < in.tokens;) {
    TokenGroup groups[kGroupBlock];
    int64_t group_count = 0;
    int64_t block = 0;
    while (group_count < kGroupBlock && first + block < in.tokens && block < most_tokens) {
      TokenGroup& group = groups[group_count++];
      group = {block, 1};
      const int32_t sequence = in.table_row[first + block];
      while (group.count < most_together && first + block + group.count < in.tokens &&
             block + group.count < most_tokens && in.table_row[first + block + group.count] == sequence) {
        ++group.count;
      }
      block += group.count;
    }
#pragma omp parallel if (group_count * chunks > 1)
    {
      Pieces pieces(scratch + omp_get_thread_num() * scratch_bytes);
      ChunkScratch<T> mine(pieces, in.heads, in.latent_dim, in.rope_dim);
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < group_count * chunks; ++task) {
        const TokenGroup& group = groups[task / chunks];
        const auto partial = [&](int64_t t) { return partial_of(group.first + t, task % chunks); };
        attend_to_chunk(partial, in, first + group.first, group.count, task % chunks, mine);
      }
#pragma omp for schedule(static)
      for (int64_t task = 0; task < block * in.heads; ++task) {
        const int64_t slot = task / in.heads;
        const int64_t h = task % in.heads;
        const int64_t used = (in.visible[first + slot] + kChunk - 1) / kChunk;
        T* row = out + ((first + slot) * in.heads + h) * in.latent_dim;
        if (used == 0) {  // a token that sees nothing: padding
          std::fill_n(row, in.latent_dim, T{});
          continue;
        }
        float largest = -INFINITY;
        for (int64_t c = 0; c < used; ++c) largest = std::max(largest, partial_of(slot, c).largest[h]);
        float sum = 0;
        for (int64_t c = 0; c < used; ++c) {
          const Partial p = partial_of(slot, c);
          sum += p.sum[h] * std::exp(p.largest[h] - largest);
        }
        float* merged = partial_of(slot, 0).output + h * in.latent_dim;
        for (int64_t c = 0; c < used; ++c) {
          const Partial p = partial_of(slot, c);
          const float weight = std::exp(p.largest[h] - largest) / sum;
          const float* output = p.output + h * in.latent_dim;
          for (int64_t j = 0; j < in.latent_dim; ++j) merged[j] = (c == 0 ? 0.0f : merged[j]) + weight * output[j];
        }
        for (int64_t j = 0; j < in.latent_dim; ++j) store(row + j, merged[j]);
      }
    }
    first += block;
  }
}

template void latent_attention(float*, const LatentAttentionInputs<float>&, void*);
template void latent_attention(bfloat16*, const LatentAttentionInputs<bfloat16>&, void*);

}  // namespace deeptitan::cpu

#include <algorithm>
#include <cmath>
#include <cstring>

#include <omp.h>

#include "kernels/cpu/attention/attend_rows.h"
#include "kernels/cpu/attention/cached_attention.h"

// One task is one head of one sequence. Block by block of keys it multiplies the sequence's latents, read from their
// pages, with the head's own rows of the projections, packs keys and values, and walks over blocks of query rows. A row
// that sees one block has the bits of attention_forward; one that sees more adds up the blocks' results in their order,
// each weighted by its share of the exponentials. Where blocks begin depends on the place of the key alone.

namespace deeptitan::cpu {
namespace {

constexpr int64_t kKeyBlock = 1024;

// What a thread needs for one head: `keys` of a block, and `rows` of query where there is more than one block.
template <typename T>
struct ExpandedScratch {
  T* keys;                  // [S, Dn + Dr]
  T* values;                // [S, Dv]
  uint32_t* packed_keys;    // K^T: contracted Dn + Dr, columns S
  uint32_t* packed_values;  // V: contracted S, columns Dv
  float* scores;            // [block, S padded]
  T* probabilities;         // [block, S padded]
  float* out;               // [rows, Dv]: of the key blocks so far
  float* log_sum_exp;       // [rows]
  float* block_out;         // [block, Dv]: of one key block
  float* block_log_sum_exp;

  ExpandedScratch(Pieces& pieces, const ExpandedSize& size) {
    const int64_t longest = std::min(size.max_visible, kKeyBlock);
    const int64_t padded = round_up(longest, kPanelColumns);
    const int64_t rows = size.max_visible > kKeyBlock ? size.max_query : 0;
    keys = pieces.take<T>(longest * size.key_dim);
    values = pieces.take<T>(longest * size.value_dim);
    packed_keys = pieces.take<uint32_t>(packed_words(kOperand<T>, size.key_dim, longest));
    packed_values = pieces.take<uint32_t>(packed_words(kOperand<T>, padded, size.value_dim));
    scores = pieces.take<float>(kQueryBlock * padded);
    probabilities = pieces.take<T>(kQueryBlock * padded);
    out = pieces.take<float>(rows * size.value_dim);
    log_sum_exp = pieces.take<float>(rows);
    block_out = pieces.take<float>(kQueryBlock * size.value_dim);
    block_log_sum_exp = pieces.take<float>(kQueryBlock);
  }
};

template <typename T>
int64_t scratch_bytes(const ExpandedSize& size) {
  Pieces pieces(nullptr);
  ExpandedScratch<T> counted(pieces, size);
  return pieces.used();
}

// Calls body(first entry, entries, their rows) for runs of entries [begin, end) that lie behind one another in memory.
template <typename T, typename Body>
void for_runs_of_entries(const CachedAttention<T>& in, int64_t sequence, int64_t begin, int64_t end, const Body& body) {
  const BatchSequences& b = in.sequences;
  const int64_t width = in.latent_dim + in.rope_dim;
  const int32_t* pages = b.page_table + sequence * b.page_table_stride;
  while (begin < end) {
    const int64_t page = begin / b.page_size;
    int64_t last = page;
    while ((last + 1) * b.page_size < end && pages[last + 1] == pages[last] + 1) ++last;
    const int64_t stop = std::min(end, (last + 1) * b.page_size);
    body(begin, stop - begin, in.cache + (pages[page] * b.page_size + begin % b.page_size) * width);
    begin = stop;
  }
}

// One head of one sequence.
template <typename T>
struct ExpandedHead {
  const CachedAttention<T>& in;
  int64_t sequence;
  int64_t head;
  const uint32_t* key_weight;
  const uint32_t* value_weight;

  int64_t key_dim() const { return in.nope_dim + in.rope_dim; }
  int64_t rows() const { return in.sequences.rows(sequence); }
  int64_t cached() const { return in.sequences.cached_length[sequence]; }
  int64_t row_offset(int64_t row) const { return (in.sequences.query_offset[sequence] + row) * in.heads + head; }

  // Keys and values of entries [begin, end), packed.
  PackedHead expand(int64_t begin, int64_t end, ExpandedScratch<T>& s) const {
    const int64_t width = in.latent_dim + in.rope_dim;
    for_runs_of_entries(in, sequence, begin, end, [&](int64_t first, int64_t count, const T* entries) {
      T* keys = s.keys + (first - begin) * key_dim();
      product(keys, key_dim(), false, entries, width, key_weight, count, in.latent_dim, in.nope_dim, in.latent_dim);
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(keys + i * key_dim() + in.nope_dim, entries + i * width + in.latent_dim, in.rope_dim * sizeof(T));
      }
      product(s.values + (first - begin) * in.value_dim, in.value_dim, false, entries, width, value_weight, count,
              in.latent_dim, in.value_dim, in.latent_dim);
    });
    pack_transposed(s.packed_keys, s.keys, key_dim(), key_dim(), end - begin, kOperand<T>);
    pack_direct(s.packed_values, s.values, in.value_dim, end - begin, in.value_dim, kOperand<T>);
    return {s.packed_keys, s.packed_values, end - begin, key_dim(), in.value_dim};
  }
};

// out = the two results, each weighted by its exponentials' share of their sum.
void merge_row(float* out, float* log_sum_exp, const float* block_out, float block_log_sum_exp, int64_t width) {
  const float larger = std::max(*log_sum_exp, block_log_sum_exp);
  const float mine = std::exp(*log_sum_exp - larger);
  const float other = std::exp(block_log_sum_exp - larger);
  const float inverse = 1.0f / (mine + other);
  for (int64_t j = 0; j < width; ++j) out[j] = (out[j] * mine + block_out[j] * other) * inverse;
  *log_sum_exp = larger + std::log(mine + other);
}

// Adds what the rows see of the keys [begin, begin + keys.length) to the results so far.
template <typename T>
void attend_to_block(const ExpandedHead<T>& h, const PackedHead& keys, int64_t begin, ExpandedScratch<T>& s) {
  const auto& in = h.in;
  const int64_t dim = in.value_dim;
  for (int64_t row = std::max<int64_t>(0, begin - h.cached()); row < h.rows(); row += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, h.rows() - row);
    const int64_t first_visible = h.cached() + row + 1 - begin;
    const int64_t seen = std::min(keys.length, first_visible + rows - 1);
    const int64_t padded = round_up(seen, kPanelColumns);
    float* out = begin == 0 ? s.out + row * dim : s.block_out;
    float* log_sum_exp = begin == 0 ? s.log_sum_exp + row : s.block_log_sum_exp;
    product(s.scores, padded, false, in.query + h.row_offset(row) * h.key_dim(), in.heads * h.key_dim(), keys.keys,
            rows, keys.key_dim, seen, keys.key_dim);
    causal_softmax(s.probabilities, log_sum_exp, 1, s.scores,
                   CausalRows{rows, first_visible, padded, in.scale, keys.length});
    product(out, dim, false, s.probabilities, padded, keys.values, rows, seen, dim, keys.length);
    for (int64_t r = 0; begin > 0 && r < rows; ++r) {
      merge_row(s.out + (row + r) * dim, s.log_sum_exp + row + r, out + r * dim, log_sum_exp[r], dim);
    }
  }
}

template <typename T>
void attend_head(T* out, const ExpandedHead<T>& h, ExpandedScratch<T>& s) {
  const auto& in = h.in;
  const int64_t length = h.cached() + h.rows();
  T* out_rows = out + h.row_offset(0) * in.value_dim;
  if (length <= kKeyBlock) {
    const PackedHead keys = h.expand(0, length, s);
    attend_rows(QueryRows<T>{.query = in.query + h.row_offset(0) * h.key_dim(),
                             .ld_query = in.heads * h.key_dim(),
                             .out = out_rows,
                             .ld_out = in.heads * in.value_dim,
                             .log_sum_exp = nullptr,
                             .ld_log_sum_exp = 0,
                             .rows = h.rows(),
                             .first_visible = h.cached() + 1},
                keys, s.scores, s.probabilities, in.scale);
    return;
  }
  for (int64_t begin = 0; begin < length; begin += kKeyBlock) {
    const PackedHead keys = h.expand(begin, std::min(length, begin + kKeyBlock), s);
    attend_to_block(h, keys, begin, s);
  }
  store_rows(out_rows, in.heads * in.value_dim, s.out, in.value_dim, h.rows(), in.value_dim);
}

}  // namespace

int64_t expanded_attention_workspace(const ExpandedSize& size, int64_t element_size) {
  return (element_size == 2 ? scratch_bytes<bfloat16>(size) : scratch_bytes<float>(size)) * omp_get_max_threads();
}

template <typename T>
void expanded_attention(T* out, const CachedAttention<T>& in, const HeadWeights& key_weight,
                        const HeadWeights& value_weight, void* workspace) {
  const BatchSequences& b = in.sequences;
  const ExpandedSize size{b.max_query, b.max_visible, in.nope_dim + in.rope_dim, in.value_dim};
  const int64_t bytes = scratch_bytes<T>(size);
  panel_product();  // chooses the instruction set here, where an error can still be thrown
#pragma omp parallel
  {
    Pieces pieces(static_cast<char*>(workspace) + omp_get_thread_num() * bytes);
    ExpandedScratch<T> scratch(pieces, size);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < b.sequences * in.heads; ++task) {
      const int64_t sequence = task / in.heads;
      const int64_t head = task % in.heads;
      if (b.rows(sequence) < kExpandedRows) continue;
      attend_head(out,
                  ExpandedHead<T>{in, sequence, head, key_weight.packed + head * key_weight.stride,
                                  value_weight.packed + head * value_weight.stride},
                  scratch);
    }
  }
}

template void expanded_attention(float*, const CachedAttention<float>&, const HeadWeights&, const HeadWeights&, void*);
template void expanded_attention(bfloat16*, const CachedAttention<bfloat16>&, const HeadWeights&, const HeadWeights&,
                                 void*);

}  // namespace deeptitan::cpu

#include "kernels/cpu/attention/attention.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention/attend_rows.h"

// One task is one head of one document. It packs that head's keys and values once, then walks over blocks of query rows
// (attend_rows.h).

namespace deeptitan::cpu {
namespace {

// Attention below this many multiply-adds is not worth waking other threads for.
constexpr int64_t kParallelThreshold = 1 << 16;

// One document's share of the inputs, for one head.
template <typename T>
struct Head {
  const AttentionInputs<T>& in;
  int64_t first;  // token
  int64_t length;
  int64_t head;

  int64_t key_dim() const { return in.nope_dim + in.rope_dim; }
  int64_t ld_query() const { return in.heads * key_dim(); }
  int64_t ld_key_value() const { return in.heads * (in.nope_dim + in.value_dim); }
  int64_t query_offset(int64_t t) const { return (first + t) * ld_query() + head * key_dim(); }
  int64_t key_value_offset(int64_t t) const {
    return (first + t) * ld_key_value() + head * (in.nope_dim + in.value_dim);
  }
  int64_t out_offset(int64_t t) const { return ((first + t) * in.heads + head) * in.value_dim; }
  int64_t statistic(int64_t t) const { return (first + t) * in.heads + head; }

  // The whole key of each token, [length, key_dim]: its nope part, then the rope part that all heads share.
  void gather_keys(T* keys) const {
    for (int64_t t = 0; t < length; ++t) {
      T* row = keys + t * key_dim();
      std::memcpy(row, in.key_value + key_value_offset(t), in.nope_dim * sizeof(T));
      std::memcpy(row + in.nope_dim, in.key_rope + (first + t) * in.ld_key_rope, in.rope_dim * sizeof(T));
    }
  }
  const T* values() const { return in.key_value + key_value_offset(0) + in.nope_dim; }
};

// What a thread needs to run forward over one head.
template <typename T>
struct ForwardScratch {
  T* keys;                  // [S, Dq]
  uint32_t* packed_keys;    // K^T: contracted Dq, columns S
  uint32_t* packed_values;  // V: contracted S, columns Dv
  float* scores;            // [block, S padded]
  T* probabilities;         // [block, S padded]

  ForwardScratch(Pieces& pieces, int64_t longest, int64_t key_dim, int64_t value_dim) {
    const int64_t padded = round_up(longest, kPanelColumns);
    keys = pieces.take<T>(longest * key_dim);
    packed_keys = pieces.take<uint32_t>(packed_words(kOperand<T>, key_dim, longest));
    packed_values = pieces.take<uint32_t>(packed_words(kOperand<T>, padded, value_dim));
    scores = pieces.take<float>(kQueryBlock * padded);
    probabilities = pieces.take<T>(kQueryBlock * padded);
  }
};

template <typename T>
void forward_head(T* out, float* log_sum_exp, const Head<T>& h, ForwardScratch<T>& s) {
  const auto& in = h.in;
  h.gather_keys(s.keys);
  pack_transposed(s.packed_keys, s.keys, h.key_dim(), h.key_dim(), h.length, kOperand<T>);
  pack_direct(s.packed_values, h.values(), h.ld_key_value(), h.length, in.value_dim, kOperand<T>);

  attend_rows(QueryRows<T>{.query = in.query + h.query_offset(0),
                           .ld_query = h.ld_query(),
                           .out = out + h.out_offset(0),
                           .ld_out = in.heads * in.value_dim,
                           .log_sum_exp = log_sum_exp == nullptr ? nullptr : log_sum_exp + h.statistic(0),
                           .ld_log_sum_exp = in.heads,
                           .rows = h.length,
                           .first_visible = 1},
              PackedHead{s.packed_keys, s.packed_values, h.length, h.key_dim(), in.value_dim}, s.scores,
              s.probabilities, in.scale);
}

template <typename T>
struct BackwardScratch {
  T* keys;
  uint32_t* packed_keys;         // K^T: contracted Dq, columns S
  uint32_t* packed_keys_direct;  // K: contracted S, columns Dq
  uint32_t* packed_values;       // V^T: contracted Dv, columns S
  float* scores;                 // [block, S padded]
  float* d_probabilities;        // [block, S padded]
  float* delta;                  // [block]
  T* probabilities;              // [block, S padded]
  T* d_scores;
  uint32_t* packed_left;   // a block of probabilities or d_scores, contracted block, columns S
  uint32_t* packed_right;  // a block of queries or d_out, contracted block, columns Dq or Dv
  float* d_keys;           // [S, Dq]
  float* d_values;         // [S, Dv]

  BackwardScratch(Pieces& pieces, int64_t longest, int64_t key_dim, int64_t value_dim) {
    const int64_t padded = round_up(longest, kPanelColumns);
    keys = pieces.take<T>(longest * key_dim);
    packed_keys = pieces.take<uint32_t>(packed_words(kOperand<T>, key_dim, longest));
    packed_keys_direct = pieces.take<uint32_t>(packed_words(kOperand<T>, padded, key_dim));
    packed_values = pieces.take<uint32_t>(packed_words(kOperand<T>, value_dim, longest));
    scores = pieces.take<float>(kQueryBlock * padded);
    d_probabilities = pieces.take<float>(kQueryBlock * padded);
    delta = pieces.take<float>(kQueryBlock);
    probabilities = pieces.take<T>(kQueryBlock * padded);
    d_scores = pieces.take<T>(kQueryBlock * padded);
    packed_left = pieces.take<uint32_t>(packed_words(kOperand<T>, kQueryBlock, padded));
    packed_right = pieces.take<uint32_t>(packed_words(kOperand<T>, kQueryBlock, std::max(key_dim, value_dim)));
    d_keys = pieces.take<float>(longest * key_dim);
    d_values = pieces.take<float>(longest * value_dim);
  }
};

template <typename T>
void backward_head(const AttentionGradients<T>& gradients, float* d_key_rope /* [T, H, Dr] */, const T* d_out,
                   const T* out, const float* log_sum_exp, const Head<T>& h, BackwardScratch<T>& s) {
  const auto& in = h.in;
  const int64_t key_dim = h.key_dim();
  const int64_t ld_out = in.heads * in.value_dim;
  h.gather_keys(s.keys);
  pack_transposed(s.packed_keys, s.keys, key_dim, key_dim, h.length, kOperand<T>);
  pack_direct(s.packed_keys_direct, s.keys, key_dim, h.length, key_dim, kOperand<T>);
  pack_transposed(s.packed_values, h.values(), h.ld_key_value(), in.value_dim, h.length, kOperand<T>);
  std::fill_n(s.d_keys, h.length * key_dim, 0.0f);
  std::fill_n(s.d_values, h.length * in.value_dim, 0.0f);

  for (int64_t begin = 0; begin < h.length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, h.length - begin);
    const int64_t seen = begin + rows;
    const int64_t padded = round_up(seen, kPanelColumns);
    const T* query = in.query + h.query_offset(begin);
    const T* d_out_block = d_out + h.out_offset(begin);
    product(s.scores, padded, false, query, h.ld_query(), s.packed_keys, rows, key_dim, seen, key_dim);
    product(s.d_probabilities, padded, false, d_out_block, ld_out, s.packed_values, rows, in.value_dim, seen,
            in.value_dim);
    row_dots(s.delta, d_out_block, out + h.out_offset(begin), ld_out, rows, in.value_dim);
    causal_softmax_backward(s.probabilities, s.d_scores, s.scores, s.d_probabilities, log_sum_exp + h.statistic(begin),
                            in.heads, s.delta, CausalRows{rows, begin + 1, padded, in.scale});
    product(gradients.d_query + h.query_offset(begin), h.ld_query(), false, s.d_scores, padded, s.packed_keys_direct,
            rows, seen, key_dim, h.length);
    pack_direct(s.packed_left, s.d_scores, padded, rows, seen, kOperand<T>);
    pack_direct(s.packed_right, query, h.ld_query(), rows, key_dim, kOperand<T>);
    transposed_product(s.d_keys, key_dim, kOperand<T>, s.packed_left, seen, s.packed_right, key_dim, rows);
    pack_direct(s.packed_left, s.probabilities, padded, rows, seen, kOperand<T>);
    pack_direct(s.packed_right, d_out_block, ld_out, rows, in.value_dim, kOperand<T>);
    transposed_product(s.d_values, in.value_dim, kOperand<T>, s.packed_left, seen, s.packed_right, in.value_dim, rows);
  }

  T* d_key_value = gradients.d_key_value + h.key_value_offset(0);
  store_rows(d_key_value, h.ld_key_value(), s.d_keys, key_dim, h.length, in.nope_dim);
  store_rows(d_key_value + in.nope_dim, h.ld_key_value(), s.d_values, in.value_dim, h.length, in.value_dim);
  store_rows(d_key_rope + h.statistic(0) * in.rope_dim, in.heads * in.rope_dim, s.d_keys + in.nope_dim, key_dim,
             h.length, in.rope_dim);
}

template <typename Scratch>
int64_t scratch_bytes(int64_t longest, int64_t key_dim, int64_t value_dim) {
  Pieces pieces(nullptr);
  Scratch counted(pieces, longest, key_dim, value_dim);
  return pieces.used();
}

// Longer documents first would balance better, but document order keeps the code plain: heads outnumber threads.
template <typename T, typename Scratch, typename Body>
void for_each_head(const AttentionInputs<T>& in, char* workspace, const Body& body) {
  const int64_t key_dim = in.nope_dim + in.rope_dim;
  const int64_t bytes = scratch_bytes<Scratch>(in.longest, key_dim, in.value_dim);
  panel_product();  // chooses the instruction set here, where an error can still be thrown
#pragma omp parallel if (in.document_offset[in.documents] * in.longest * in.heads * key_dim > kParallelThreshold)
  {
    Pieces pieces(workspace + omp_get_thread_num() * bytes);
    Scratch scratch(pieces, in.longest, key_dim, in.value_dim);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < in.documents * in.heads; ++task) {
      const int64_t document = task / in.heads;
      const int64_t first = in.document_offset[document];
      const int64_t length = in.document_offset[document + 1] - first;
      if (length > 0) body(Head<T>{in, first, length, task % in.heads}, scratch);
    }
  }
}

}  // namespace

int64_t attention_forward_workspace(int64_t longest, int64_t nope_dim, int64_t rope_dim, int64_t value_dim,
                                    int64_t element_size) {
  const int64_t key_dim = nope_dim + rope_dim;
  const int64_t bytes = element_size == 2 ? scratch_bytes<ForwardScratch<bfloat16>>(longest, key_dim, value_dim)
                                          : scratch_bytes<ForwardScratch<float>>(longest, key_dim, value_dim);
  return bytes * omp_get_max_threads();
}

int64_t attention_backward_workspace(int64_t tokens, int64_t longest, int64_t heads, int64_t nope_dim, int64_t rope_dim,
                                     int64_t value_dim, int64_t element_size) {
  const int64_t key_dim = nope_dim + rope_dim;
  const int64_t bytes = element_size == 2 ? scratch_bytes<BackwardScratch<bfloat16>>(longest, key_dim, value_dim)
                                          : scratch_bytes<BackwardScratch<float>>(longest, key_dim, value_dim);
  return bytes * omp_get_max_threads() + round_up(tokens * heads * rope_dim * static_cast<int64_t>(sizeof(float)), 64);
}

template <typename T>
void attention_forward(T* out, float* log_sum_exp, const AttentionInputs<T>& in, void* workspace) {
  for_each_head<T, ForwardScratch<T>>(in, static_cast<char*>(workspace), [&](const Head<T>& head, auto& scratch) {
    forward_head(out, log_sum_exp, head, scratch);
  });
}

template <typename T>
void attention_backward(const AttentionGradients<T>& gradients, const T* d_out, const T* out, const float* log_sum_exp,
                        const AttentionInputs<T>& in, void* workspace) {
  if (in.documents == 0) return;
  const int64_t tokens = in.document_offset[in.documents];
  float* d_key_rope = static_cast<float*>(workspace);
  char* scratch_base = static_cast<char*>(workspace) +
                       round_up(tokens * in.heads * in.rope_dim * static_cast<int64_t>(sizeof(float)), 64);
  for_each_head<T, BackwardScratch<T>>(in, scratch_base, [&](const Head<T>& head, auto& scratch) {
    backward_head(gradients, d_key_rope, d_out, out, log_sum_exp, head, scratch);
  });
#pragma omp parallel for schedule(static)
  for (int64_t t = in.document_offset[0]; t < tokens; ++t) {
    for (int64_t j = 0; j < in.rope_dim; ++j) {
      float sum = 0;
      for (int64_t head = 0; head < in.heads; ++head) sum += d_key_rope[(t * in.heads + head) * in.rope_dim + j];
      store(gradients.d_key_rope + t * gradients.ld_d_key_rope + j, sum);
    }
  }
}

template void attention_forward(float*, float*, const AttentionInputs<float>&, void*);
template void attention_forward(bfloat16*, float*, const AttentionInputs<bfloat16>&, void*);
template void attention_backward(const AttentionGradients<float>&, const float*, const float*, const float*,
                                 const AttentionInputs<float>&, void*);
template void attention_backward(const AttentionGradients<bfloat16>&, const bfloat16*, const bfloat16*, const float*,
                                 const AttentionInputs<bfloat16>&, void*);

}  // namespace deeptitan::cpu

#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attention/softmax_rows.h"
#include "kernels/cpu/attention/tile_products.h"
#include "kernels/cpu/elementwise/elementwise.h"

// The causal half of one head's attention, in blocks of query rows: scores of a block against all keys it may see,
// softmax, product with the values. Blocks are small enough for the second-level cache; a [T, S] matrix never exists.
// A row's result depends on its query and on the keys it sees alone: not on the rows beside it, nor on how many keys
// come after those it sees.

namespace deeptitan::cpu {

inline constexpr int64_t kQueryBlock = 64;

/// Consecutive query rows of one head; row i sees the first `first_visible + i` keys.
template <typename T>
struct QueryRows {
  const T* query;
  int64_t ld_query;
  T* out;
  int64_t ld_out;
  float* log_sum_exp;  // nullptr: not wanted
  int64_t ld_log_sum_exp;
  int64_t rows;
  int64_t first_visible;
};

/// That head's keys and values, packed for the products.
struct PackedHead {
  const uint32_t* keys;    // K^T: contracted key_dim, columns length
  const uint32_t* values;  // V: contracted length, columns value_dim
  int64_t length;
  int64_t key_dim;
  int64_t value_dim;
};

/// `scores` and `probabilities` hold kQueryBlock rows of `length` columns, rounded up to a panel.
template <typename T>
void attend_rows(const QueryRows<T>& q, const PackedHead& head, float* scores, T* probabilities, float scale) {
  for (int64_t begin = 0; begin < q.rows; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, q.rows - begin);
    const int64_t first_visible = q.first_visible + begin;
    const int64_t seen = first_visible + rows - 1;  // keys that the block's last row sees
    const int64_t padded = round_up(seen, kPanelColumns);
    product(scores, padded, false, q.query + begin * q.ld_query, q.ld_query, head.keys, rows, head.key_dim, seen,
            head.key_dim);
    causal_softmax(probabilities, q.log_sum_exp == nullptr ? nullptr : q.log_sum_exp + begin * q.ld_log_sum_exp,
                   q.ld_log_sum_exp, scores, CausalRows{rows, first_visible, padded, scale});
    // Contracting over `seen` keys of values packed for all of them: panels are `length` long.
    product(q.out + begin * q.ld_out, q.ld_out, false, probabilities, padded, head.values, rows, seen, head.value_dim,
            head.length);
  }
}

/// out = in, rounded to its type.
inline void store_rows(float* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(in + r * ld_in, columns, out + r * ld_out);
}
inline void store_rows(bfloat16* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns) {
  convert(out, ld_out, in, ld_in, rows, columns);
}

}  // namespace deeptitan::cpu

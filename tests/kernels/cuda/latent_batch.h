#pragma once

// A batch of decoding on the device: what attention over cached latents of 512 and rope keys of 64 reads.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {

/// Sequences with a few rows each behind what they have cached.
struct LatentShape {
  std::vector<int32_t> query_offset;   // [sequences + 1]
  std::vector<int32_t> cached_length;  // [sequences]
  int64_t tokens;                      // the last ones, which no sequence holds, are padding
  int64_t heads;
  int64_t page_size;
  int64_t pages;
  int64_t capacity;  // entries of a sequence

  int64_t sequences() const { return std::ssize(cached_length); }
  int64_t table_width() const { return (capacity + page_size - 1) / page_size; }
  int64_t entries() const { return pages * page_size; }
};

class LatentBatch {
 public:
  static constexpr int64_t kLatent = 512, kRope = 64, kWidth = kLatent + kRope;

  /// page_table [sequences, table_width]; cached [entries, kWidth].
  LatentBatch(LatentShape batch_shape, const std::vector<int32_t>& page_table, const std::vector<bfloat16>& cached,
              uint64_t key)
      : shape(std::move(batch_shape)),
        query(random_elements<bfloat16>(shape.tokens * shape.heads * kWidth, key)),
        cache(cached),
        offset_(shape.query_offset),
        cached_length_(shape.cached_length),
        page_table_(page_table) {}
  /// Pages and entries at random: sequences share some.
  LatentBatch(const LatentShape& batch_shape, uint64_t key)
      : LatentBatch(batch_shape, random_table(batch_shape, key + 1),
                    random_elements<bfloat16>(batch_shape.entries() * kWidth, key + 2), key) {}

  LatentRows<bfloat16> rows() {
    return {.query = query.get(),
            .cache = cache.get(),
            .rows = {offset_.get(), shape.sequences(), 0, 63},
            .cached_length = cached_length_.get(),
            .page_table = page_table_.get(),
            .page_table_stride = shape.table_width(),
            .page_size = shape.page_size,
            .tokens = shape.tokens,
            .heads = shape.heads,
            .latent_dim = kLatent,
            .rope_dim = kRope,
            .scale = 0.05f};
  }

  const LatentShape shape;
  DeviceBuffer<bfloat16> query, cache;

 private:
  static std::vector<int32_t> random_table(const LatentShape& shape, uint64_t key) {
    std::vector<int32_t> table(shape.sequences() * shape.table_width());
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(random_bits(key, i) % shape.pages);
    return table;
  }

  DeviceBuffer<int32_t> offset_, cached_length_, page_table_;
};

/// Sequences in one tile, at its end, behind several splits, without rows, and a row of padding.
inline LatentShape ragged_latent_shape(int64_t heads, int64_t capacity) {
  return {.query_offset = {0, 1, 2, 2, 4, 7, 8},
          .cached_length = {0, 63, 9, 64, 301, 380},
          .tokens = 9,
          .heads = heads,
          .page_size = 16,
          .pages = 50,
          .capacity = capacity};
}

/// Whether the rows of `found` are bit for bit the first ones of `all`.
inline bool same_first_rows(const std::vector<bfloat16>& found, const std::vector<bfloat16>& all, int64_t elements) {
  return std::equal(found.begin(), found.begin() + elements, all.begin(),
                    [](bfloat16 a, bfloat16 b) { return a.bits == b.bits; });
}

}  // namespace deeptitan::cuda

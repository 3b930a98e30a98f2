#include "kernels/cpu/matmul/pack_weights.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace deeptitan::cpu {
namespace {

template <typename Source>
struct RowBlock {
  const Source* data;
  int64_t ld;
};

// Rows [row, row + count) of the pieces under one another: where they lie, or gathered where two pieces meet.
template <typename Source>
RowBlock<Source> rows_of(const WeightRows* pieces, int64_t row, int64_t count, int64_t columns,
                         std::vector<Source>& gathered) {
  while (row >= pieces->rows) row -= (pieces++)->rows;
  const auto at = [&](int64_t r) { return static_cast<const Source*>(pieces->data) + r * pieces->ld; };
  if (row + count <= pieces->rows) return {at(row), pieces->ld};
  gathered.resize(static_cast<size_t>(count * columns));
  for (int64_t i = 0; i < count; ++i, ++row) {
    while (row >= pieces->rows) row -= (pieces++)->rows;
    std::memcpy(gathered.data() + i * columns, at(row), columns * sizeof(Source));
  }
  return {gathered.data(), columns};
}

}  // namespace

template <typename Source>
void pack_weights(const PackedWeights& packed, const WeightRows* pieces, int64_t pieces_per_group, int64_t groups) {
  const int64_t n = packed.outputs;
  const int64_t k = packed.inputs;
  const int64_t blocks = pack_direct_blocks(packed.type, n);
  const int64_t block_rows = pack_block_rows(packed.type);
#pragma omp parallel
  {
    std::vector<Source> gathered;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < groups * blocks; ++task) {
      const int64_t g = task / blocks;
      const int64_t block = task % blocks;
      const int64_t row = block * block_rows;
      const int64_t count = std::min(block_rows, n - row);
      const RowBlock<Source> source = rows_of<Source>(pieces + g * pieces_per_group, row, count, k, gathered);
      if (packed.forward != nullptr) {
        pack_transposed(packed.forward + g * packed_words(packed.type, k, n) + packed_words(packed.type, k, row),
                        source.data, source.ld, k, count, packed.type);
      }
      if (packed.backward_input != nullptr) {
        pack_direct_block(packed.backward_input + g * packed_words(packed.type, n, k), source.data, source.ld, n, k,
                          packed.type, block);
      }
    }
  }
}
template void pack_weights<float>(const PackedWeights&, const WeightRows*, int64_t, int64_t);
template void pack_weights<bfloat16>(const PackedWeights&, const WeightRows*, int64_t, int64_t);

}  // namespace deeptitan::cpu

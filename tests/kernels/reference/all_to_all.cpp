#include "kernels/reference/all_to_all.h"

#include <cstring>
#include <vector>

#include "core/error.h"

namespace deeptitan::cpu {
namespace {

template <typename Split>
AllToAllResult exchange(std::span<const AllToAllRank<Split>> ranks, int n_groups, int64_t row_bytes) {
  const auto n_ranks = static_cast<int32_t>(ranks.size());
  std::vector<int64_t> rows(ranks.size() * ranks.size(), 0);  // [source, destination]
  std::vector<int64_t> needed(ranks.size(), 0);
  for (int32_t p = 0; p < n_ranks; ++p) {
    for (int32_t q = 0; q < n_ranks; ++q) {
      for (int g = 0; g < n_groups; ++g) {
        const Split split = ranks[p].splits[q * n_groups + g];
        DT_CHECK(split >= 0, "all-to-all: rank {} asked to send rank {} {} rows of group {}; splits cannot be negative",
                 p, q, split, g);
        rows[p * n_ranks + q] += split;
      }
      needed[q] += rows[p * n_ranks + q];
    }
  }

  AllToAllResult result{false, -1, 0};
  for (int32_t q = 0; q < n_ranks; ++q) {
    if (needed[q] > ranks[q].capacity_rows && needed[q] > result.rows_needed) result = {true, q, needed[q]};
  }

  for (int32_t r = 0; r < n_ranks; ++r) {
    int64_t output_row = 0;
    for (int32_t p = 0; p < n_ranks; ++p) {
      for (int g = 0; g < n_groups; ++g) {
        ranks[r].output_splits[p * n_groups + g] = result.overflowed ? 0 : ranks[p].splits[r * n_groups + g];
      }
      if (result.overflowed) continue;
      int64_t first = 0;
      for (int32_t q = 0; q < r; ++q) first += rows[p * n_ranks + q];
      const int64_t bytes = rows[p * n_ranks + r] * row_bytes;
      if (bytes == 0) continue;
      memcpy(static_cast<char*>(ranks[r].output) + output_row * row_bytes,
             static_cast<const char*>(ranks[p].input) + first * row_bytes, static_cast<size_t>(bytes));
      output_row += rows[p * n_ranks + r];
    }
  }
  return result;
}

}  // namespace

AllToAllResult all_to_all_v(std::span<const AllToAllRank<int32_t>> ranks, int n_groups, int64_t row_bytes) {
  return exchange(ranks, n_groups, row_bytes);
}
AllToAllResult all_to_all_v(std::span<const AllToAllRank<int64_t>> ranks, int n_groups, int64_t row_bytes) {
  return exchange(ranks, n_groups, row_bytes);
}

}  // namespace deeptitan::cpu

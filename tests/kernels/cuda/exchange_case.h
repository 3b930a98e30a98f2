#pragma once

#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/reference/all_to_all.h"

namespace deeptitan::cuda {

/// Rows and splits of all ranks of one all-to-all, made from a seed, and the answer by the CPU twin.
struct ExchangeCase {
  int n_ranks;
  int n_groups;
  std::vector<int64_t> row_bytes;                          // of each payload
  std::vector<std::vector<int64_t>> splits;                // [rank][destination rank, group]
  std::vector<std::vector<std::vector<uint8_t>>> rows;     // [rank][payload] bytes
  std::vector<std::vector<std::vector<uint8_t>>> outputs;  // [rank][payload] bytes
  std::vector<std::vector<int64_t>> output_splits;         // [rank][source rank, group]

  int64_t sent(int rank) const { return std::accumulate(splits[rank].begin(), splits[rank].end(), int64_t{0}); }
  int64_t received(int rank) const {
    return std::accumulate(output_splits[rank].begin(), output_splits[rank].end(), int64_t{0});
  }
  int64_t most_sent() const {
    int64_t most = 0;
    for (int r = 0; r < n_ranks; ++r) most = std::max(most, sent(r));
    return most;
  }
  int64_t most_received() const {
    int64_t most = 0;
    for (int r = 0; r < n_ranks; ++r) most = std::max(most, received(r));
    return most;
  }
};

/// Random rows for given splits, and the expected outputs.
inline ExchangeCase make_case(std::vector<std::vector<int64_t>> splits, int n_groups, std::vector<int64_t> row_bytes,
                              uint32_t seed) {
  ExchangeCase c{static_cast<int>(splits.size()), n_groups, std::move(row_bytes), std::move(splits), {}, {}, {}};
  std::mt19937 random(seed);
  c.rows.resize(c.n_ranks);
  c.outputs.resize(c.n_ranks);
  c.output_splits.assign(c.n_ranks, std::vector<int64_t>(c.n_ranks * n_groups));
  for (int r = 0; r < c.n_ranks; ++r) {
    int64_t received = 0;
    for (int p = 0; p < c.n_ranks; ++p) {
      for (int g = 0; g < n_groups; ++g) received += c.splits[p][r * n_groups + g];
    }
    for (const int64_t bytes : c.row_bytes) {
      std::vector<uint8_t> rows(c.sent(r) * bytes);
      for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random());
      c.rows[r].push_back(std::move(rows));
      c.outputs[r].emplace_back(received * bytes);
    }
  }
  for (size_t k = 0; k < c.row_bytes.size(); ++k) {
    std::vector<cpu::AllToAllRank<int64_t>> ranks;
    for (int r = 0; r < c.n_ranks; ++r) {
      ranks.push_back({c.rows[r][k].data(), c.splits[r].data(), c.outputs[r][k].data(), c.output_splits[r].data(),
                       static_cast<int64_t>(c.outputs[r][k].size()) / c.row_bytes[k]});
    }
    cpu::all_to_all_v(ranks, n_groups, c.row_bytes[k]);
  }
  return c;
}

/// Ragged splits: a third of the groups empty, the others up to max_rows.
inline ExchangeCase make_ragged_case(int n_ranks, int n_groups, std::vector<int64_t> row_bytes, int max_rows,
                                     uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int64_t>> splits(n_ranks, std::vector<int64_t>(n_ranks * n_groups));
  for (auto& rank_splits : splits) {
    for (int64_t& split : rank_splits) split = random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % (max_rows + 1));
  }
  return make_case(std::move(splits), n_groups, std::move(row_bytes), seed + 1);
}

}  // namespace deeptitan::cuda

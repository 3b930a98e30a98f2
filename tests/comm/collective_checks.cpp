#include "comm/collective_checks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "comm/host_communicator.h"

namespace deeptitan {
namespace {

// Numbers that every rank draws alike: the ranks' values, shapes and parts are all known everywhere.
class Drawn {
 public:
  explicit Drawn(uint64_t seed) : engine_(seed) {}

  int64_t below(int64_t limit) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(limit)); }

  // Of magnitudes so different that another order of a sum has other bits.
  template <typename T>
  std::vector<T> values(int64_t count) {
    std::vector<T> result(static_cast<size_t>(count));
    for (T& value : result) {
      const double magnitude = std::pow(2.0, static_cast<double>(below(40)) - 20.0);
      value = static_cast<T>((static_cast<double>(below(2000001)) - 1e6) * (std::is_integral_v<T> ? 1.0 : magnitude));
    }
    return result;
  }

  // Some of them empty, at times all.
  std::vector<int64_t> counts(int ranks, int64_t limit) {
    std::vector<int64_t> result(static_cast<size_t>(ranks));
    const int64_t most = below(3) == 0 ? 1 : limit;
    for (int64_t& count : result) count = below(3) == 0 ? 0 : below(most);
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

std::vector<int> shuffled_ranks(int size, Drawn& drawn) {
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  for (int i = size - 1; i > 0; --i) std::swap(ranks[i], ranks[drawn.below(i + 1)]);
  return ranks;
}

HostCommunicator make_group(Transport& transport, Drawn& drawn, int channel) {
  return {transport, "test", shuffled_ranks(transport.size(), drawn), channel, 60};
}

template <typename T>
Tensor as_tensor(std::vector<T>& values) {
  return {values.data(), DTypeOf<T>::value, {static_cast<int64_t>(values.size())}};
}

template <typename T>
std::vector<std::vector<T>> values_of_ranks(int ranks, int64_t count, Drawn& drawn) {
  std::vector<std::vector<T>> result;
  for (int r = 0; r < ranks; ++r) result.push_back(drawn.values<T>(count));
  return result;
}

template <typename T>
std::vector<T> sum_in_order(const std::vector<std::vector<T>>& of_ranks) {
  std::vector<T> sum = of_ranks[0];
  for (size_t r = 1; r < of_ranks.size(); ++r) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += of_ranks[r][i];
  }
  return sum;
}

int64_t total(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

template <typename T>
void check_sum(HostCommunicator& group, int64_t count, Drawn& drawn) {
  ExecutionContext ctx;
  auto of_ranks = values_of_ranks<T>(group.size(), count, drawn);
  const std::vector<T> expected = sum_in_order(of_ranks);
  std::vector<T>& mine = of_ranks[group.rank()];
  group.all_reduce(ctx, as_tensor(mine));
  EXPECT_EQ(mine, expected) << "rank " << group.rank() << " of " << group.size();
}

}  // namespace

void check_all_reduce(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  HostCommunicator group = make_group(transport, drawn, 0);
  for (const int64_t count : {int64_t{1}, drawn.below(50), 500 + drawn.below(5000), int64_t{3}}) {
    check_sum<float>(group, count, drawn);
    check_sum<double>(group, count, drawn);
    check_sum<int32_t>(group, count, drawn);
  }
}

void check_reduce_scatter_and_all_gather(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  HostCommunicator group = make_group(transport, drawn, 0);
  ExecutionContext ctx;
  for (const int64_t limit : {2, 40, 3000}) {
    const std::vector<int64_t> parts = drawn.counts(group.size(), limit);
    auto of_ranks = values_of_ranks<float>(group.size(), total(parts), drawn);
    const std::vector<float> expected = sum_in_order(of_ranks);
    std::vector<float>& mine = of_ranks[group.rank()];
    group.reduce_scatter(ctx, as_tensor(mine), parts);
    const int64_t begin = std::accumulate(parts.begin(), parts.begin() + group.rank(), int64_t{0});
    for (int64_t i = begin; i < begin + parts[group.rank()]; ++i) EXPECT_EQ(mine[i], expected[i]);
    for (int64_t i = 0; i < total(parts); ++i) {
      if (i < begin || i >= begin + parts[group.rank()]) mine[i] = -1;
    }
    group.all_gather(ctx, as_tensor(mine), parts);
    EXPECT_EQ(mine, expected);
  }
}

void check_all_to_all(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  HostCommunicator group = make_group(transport, drawn, 0);
  ExecutionContext ctx;
  for (int round = 0; round < 3; ++round) {
    const int64_t width = 1 + drawn.below(9);
    std::vector<std::vector<int64_t>> rows;  // [from][to]
    for (int r = 0; r < group.size(); ++r) rows.push_back(drawn.counts(group.size(), 30));
    const auto row_value = [&](int from, int to, int64_t row, int64_t column) {
      return static_cast<int32_t>(((from * 10 + to) * 100 + row) * 10 + column);
    };
    std::vector<int32_t> sent, expected;
    std::vector<int64_t> received_rows;
    for (int r = 0; r < group.size(); ++r) {
      received_rows.push_back(rows[r][group.rank()]);
      for (int64_t row = 0; row < rows[group.rank()][r]; ++row) {
        for (int64_t c = 0; c < width; ++c) sent.push_back(row_value(group.rank(), r, row, c));
      }
      for (int64_t row = 0; row < rows[r][group.rank()]; ++row) {
        for (int64_t c = 0; c < width; ++c) expected.push_back(row_value(r, group.rank(), row, c));
      }
    }
    const int64_t spare = drawn.below(3);  // rows that are left alone
    expected.resize(expected.size() + spare * width, -7);
    std::vector<int32_t> received(expected.size() + 1, -7);
    sent.resize(sent.size() + spare * width + 1, -9);
    const auto matrix = [&](std::vector<int32_t>& values) {
      return Tensor(values.data(), DType::kI32, {static_cast<int64_t>(values.size() - 1) / width, width});
    };
    group.all_to_all(ctx, matrix(received), received_rows, matrix(sent), rows[group.rank()]);
    received.pop_back();
    EXPECT_EQ(received, expected);
  }
}

void check_send_and_receive(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  HostCommunicator group = make_group(transport, drawn, 0);
  HostCommunicator beside(transport, "beside", shuffled_ranks(transport.size(), drawn), 1, 60);
  if (group.size() == 1) return;
  ExecutionContext ctx;
  // Everybody sends to both neighbours before anybody receives, in two groups at once.
  const int64_t count = 1 + drawn.below(2000);
  std::vector<std::vector<float>> kept;
  for (HostCommunicator* g : {&group, &beside}) {
    for (const int step : {1, g->size() - 1}) {
      kept.emplace_back(count, static_cast<float>(100 * g->rank() + step));
      g->send(ctx, as_tensor(kept.back()), (g->rank() + step) % g->size());
    }
  }
  for (HostCommunicator* g : {&beside, &group}) {
    for (const int step : {1, g->size() - 1}) {
      std::vector<float> x(count);
      const int from = (g->rank() + g->size() - step) % g->size();
      g->receive(ctx, as_tensor(x), from);
      EXPECT_EQ(x, std::vector<float>(count, static_cast<float>(100 * from + step)));
    }
  }
  group.finish_send(ctx, as_tensor(kept.front()));
  kept.front().assign(count, -1);
  group.finish_sends(ctx);
  beside.finish_sends(ctx);
}

void check_broadcast_and_barrier(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  HostCommunicator group = make_group(transport, drawn, 0);
  ExecutionContext ctx;
  for (int root = 0; root < group.size(); ++root) {
    const std::vector<double> expected = drawn.values<double>(drawn.below(1000));
    std::vector<double> x = group.rank() == root ? expected : std::vector<double>(expected.size());
    group.broadcast(ctx, as_tensor(x), root);
    EXPECT_EQ(x, expected);
    group.barrier(ctx);
  }
}

}  // namespace deeptitan

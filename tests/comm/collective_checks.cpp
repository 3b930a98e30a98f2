#include "comm/collective_checks.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "comm/host_communicator.h"
#include "core/device_memory.h"
#include "core/transfer.h"

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

std::unique_ptr<Communicator> make_group(Transport& transport, Drawn& drawn, int channel) {
  return std::make_unique<HostCommunicator>(transport, "test", shuffled_ranks(transport.size(), drawn), channel, 60);
}

// Numbers where the group exchanges them.
template <typename T>
class Placed {
 public:
  Placed(const std::vector<T>& values, Device device)
      : memory_("test", device, MemoryKind::kDevice,
                static_cast<int64_t>(std::max<size_t>(1, values.size()) * sizeof(T))),
        tensor_(memory_.data(), DTypeOf<T>::value, {std::ssize(values)}, device) {
    set(values);
  }
  const Tensor& tensor() const { return tensor_; }
  Tensor matrix(int64_t width) const {
    const int64_t rows = tensor_.numel() / width;
    return tensor_.rows(0, rows * width).reshape({rows, width});
  }
  void set(const std::vector<T>& values) { copy_tensor(tensor_, of(values)); }
  std::vector<T> values() const {
    std::vector<T> result(static_cast<size_t>(tensor_.numel()));
    copy_tensor(of(result), tensor_);
    return result;
  }

 private:
  static Tensor of(const std::vector<T>& values) {
    return {const_cast<T*>(values.data()), DTypeOf<T>::value, {std::ssize(values)}};
  }

  MemoryBlock memory_;
  Tensor tensor_;
};

ExecutionContext context_on(Device device) {
  ExecutionContext ctx;
  ctx.device = device;
  ctx.compute = Stream(device);
  ctx.communication = Stream(device);
  return ctx;
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
void check_sum(Communicator& group, Device device, int64_t count, Drawn& drawn) {
  ExecutionContext ctx = context_on(device);
  const auto of_ranks = values_of_ranks<T>(group.size(), count, drawn);
  const Placed<T> mine(of_ranks[group.rank()], device);
  group.all_reduce(ctx, mine.tensor());
  ctx.communication.synchronize();
  EXPECT_EQ(mine.values(), sum_in_order(of_ranks)) << "rank " << group.rank() << " of " << group.size();
}

void check_all_reduce_in(Communicator& group, Device device, Drawn& drawn) {
  for (const int64_t count : {int64_t{1}, drawn.below(50), 500 + drawn.below(5000), int64_t{3}}) {
    check_sum<float>(group, device, count, drawn);
    check_sum<double>(group, device, count, drawn);
    check_sum<int32_t>(group, device, count, drawn);
  }
}

void check_parts_in(Communicator& group, Device device, Drawn& drawn) {
  ExecutionContext ctx = context_on(device);
  for (const int64_t limit : {2, 40, 3000}) {
    const std::vector<int64_t> parts = drawn.counts(group.size(), limit);
    const auto of_ranks = values_of_ranks<float>(group.size(), total(parts), drawn);
    const std::vector<float> expected = sum_in_order(of_ranks);
    Placed<float> x(of_ranks[group.rank()], device);
    group.reduce_scatter(ctx, x.tensor(), parts);
    ctx.communication.synchronize();
    std::vector<float> mine = x.values();
    const int64_t begin = std::accumulate(parts.begin(), parts.begin() + group.rank(), int64_t{0});
    for (int64_t i = begin; i < begin + parts[group.rank()]; ++i) EXPECT_EQ(mine[i], expected[i]);
    for (int64_t i = 0; i < total(parts); ++i) {
      if (i < begin || i >= begin + parts[group.rank()]) mine[i] = -1;
    }
    x.set(mine);
    group.all_gather(ctx, x.tensor(), parts);
    ctx.communication.synchronize();
    EXPECT_EQ(x.values(), expected);
  }
}

void check_all_to_all_in(Communicator& group, Device device, Drawn& drawn) {
  ExecutionContext ctx = context_on(device);
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
    sent.resize(sent.size() + spare * width, -9);
    const Placed<int32_t> received(std::vector<int32_t>(expected.size(), -7), device);
    const Placed<int32_t> source(sent, device);
    group.all_to_all(ctx, received.matrix(width), received_rows, source.matrix(width), rows[group.rank()]);
    ctx.communication.synchronize();
    EXPECT_EQ(received.values(), expected);
  }
}

void check_sends_in(Communicator& group, Communicator& beside, Device device, Drawn& drawn) {
  if (group.size() == 1) return;
  ExecutionContext ctx = context_on(device);
  // Everybody sends to both neighbours before anybody receives, in two groups at once.
  const int64_t count = 1 + drawn.below(2000);
  const auto alike = [&](int value) { return std::vector<float>(count, static_cast<float>(value)); };
  std::deque<Placed<float>> kept;
  for (Communicator* g : {&group, &beside}) {
    for (const int step : {1, g->size() - 1}) {
      kept.emplace_back(alike(100 * g->rank() + step), device);
      g->send(ctx, kept.back().tensor(), (g->rank() + step) % g->size());
    }
  }
  for (Communicator* g : {&beside, &group}) {
    for (const int step : {1, g->size() - 1}) {
      const Placed<float> x(alike(0), device);
      const int from = (g->rank() + g->size() - step) % g->size();
      g->receive(ctx, x.tensor(), from);
      ctx.communication.synchronize();
      EXPECT_EQ(x.values(), alike(100 * from + step));
    }
  }
  group.finish_send(ctx, kept.front().tensor());
  ctx.compute.synchronize();
  kept.front().set(alike(-1));
  group.finish_sends(ctx);
  beside.finish_sends(ctx);
  ctx.compute.synchronize();
}

void check_broadcast_in(Communicator& group, Device device, Drawn& drawn) {
  ExecutionContext ctx = context_on(device);
  for (int root = 0; root < group.size(); ++root) {
    const std::vector<double> expected = drawn.values<double>(drawn.below(1000));
    const Placed<double> x(group.rank() == root ? expected : std::vector<double>(expected.size()), device);
    group.broadcast(ctx, x.tensor(), root);
    ctx.communication.synchronize();
    EXPECT_EQ(x.values(), expected);
    group.barrier(ctx);
  }
}

}  // namespace

void check_all_reduce(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  check_all_reduce_in(*make_group(transport, drawn, 0), {}, drawn);
}

void check_reduce_scatter_and_all_gather(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  check_parts_in(*make_group(transport, drawn, 0), {}, drawn);
}

void check_all_to_all(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  check_all_to_all_in(*make_group(transport, drawn, 0), {}, drawn);
}

void check_send_and_receive(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  const auto group = make_group(transport, drawn, 0);
  const auto beside = make_group(transport, drawn, 1);
  check_sends_in(*group, *beside, {}, drawn);
}

void check_broadcast_and_barrier(Transport& transport, uint64_t seed) {
  Drawn drawn(seed);
  check_broadcast_in(*make_group(transport, drawn, 0), {}, drawn);
}

void check_every_operation(Communicator& group, Communicator& one_by_one, Communicator& beside, Device device,
                           uint64_t seed) {
  Drawn drawn(seed);
  check_all_reduce_in(group, device, drawn);
  check_parts_in(group, device, drawn);
  check_all_to_all_in(group, device, drawn);
  check_sends_in(one_by_one, beside, device, drawn);
  check_broadcast_in(group, device, drawn);
}

void check_large_sums(Communicator& group, Device device) {
  Drawn drawn(77);
  check_sum<float>(group, device, (int64_t{1} << 20) + 77, drawn);
  check_sum<double>(group, device, 300'001, drawn);
}

}  // namespace deeptitan

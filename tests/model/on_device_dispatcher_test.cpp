// Rows that go from kernel to kernel, with threads as ranks: on the CPU, on one GPU, and on a GPU a rank. Places and
// bits are those of AllToAllDispatcher on the CPU.

#include "model/moe/on_device_dispatcher.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/host_communicator.h"
#include "comm/thread_ranks.h"
#include "core/captured_graph.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/transfer.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "ops/expert_rows.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/thread_memory.h"

namespace deeptitan {
namespace {

struct ExchangeOfRows {
  int ranks = 2;
  int experts = 8;
  int top_k = 3;
  int64_t tokens = 17;
  int64_t hidden = 24;
  DType dtype = DType::kF32;
  double room = 0;
  int first_chosen = 0;  // no token chooses an expert before it
  int last_chosen = -1;  // or behind it; -1: the last
};

// What a rank's exchange left.
struct ExchangedRows {
  std::vector<int32_t> offsets, sizes;
  std::vector<float> rows, d_rows;  // those of the groups
  std::vector<float> out, d_x, d_weight;
  int32_t overflow = 0;
  bool operator==(const ExchangedRows&) const = default;
};

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = to_float(to_bfloat16(uniform(generator)));
  return values;
}

void upload_as(const Tensor& to, const std::vector<float>& values) {
  if (to.dtype() == DType::kF32) return upload<float>(to, values);
  std::vector<bfloat16> narrow(values.size());
  std::transform(values.begin(), values.end(), narrow.begin(), [](float v) { return to_bfloat16(v); });
  copy_tensor(to, Tensor(narrow.data(), DType::kBF16, {to.numel()}));
}

std::vector<float> download_as_float(const Tensor& from) {
  if (from.dtype() == DType::kF32) return download<float>(from);
  std::vector<bfloat16> narrow(static_cast<size_t>(from.numel()));
  copy_tensor(Tensor(narrow.data(), DType::kBF16, {from.numel()}), from);
  std::vector<float> values(narrow.size());
  std::transform(narrow.begin(), narrow.end(), values.begin(), [](bfloat16 v) { return to_float(v); });
  return values;
}

// One rank's dispatch, combine and their backward, where an expert gives back what it gets. `memory` nullptr: over
// `ep`. `rounds`: how often, with other choices each time; on a GPU replayed from a graph where `captured`.
std::vector<ExchangedRows> exchange_rows(const ExchangeOfRows& c, Device device, Communicator& ep, PeerMemory* memory,
                                         int rounds, bool captured) {
  const RouterOptions router{.experts = c.experts, .top_k = c.top_k};
  std::unique_ptr<TokenDispatcher> dispatcher;
  if (memory == nullptr) {
    dispatcher = std::make_unique<AllToAllDispatcher>(ep, router, c.room);
  } else {
    dispatcher = std::make_unique<OnDeviceDispatcher>(*memory, router, c.room);
  }
  const int64_t capacity = dispatcher->capacity(c.tokens);
  Arena window("window", device), own("own", device), workspace("workspace", device);
  ExecutionContext ctx;
  ctx.device = device;
  ctx.workspace = &workspace;
  Routing routing;
  Tensor x, d_out, out, d_x, d_weight, rows, expert_out, d_rows, state;
  TokenDispatcher::Route route;
  const auto take = [&] {
    routing.expert_index = own.take(DType::kI32, {c.tokens, c.top_k});
    routing.expert_weight = own.take(DType::kF32, {c.tokens, c.top_k});
    routing.counts = own.take(DType::kI32, {c.experts});
    for (Tensor* t : {&x, &d_out, &out, &d_x}) *t = own.take(c.dtype, {c.tokens, c.hidden});
    d_weight = own.take(DType::kF32, {c.tokens, c.top_k});
    state = own.take(DType::kU8, {sizeof(StepState)});
    for (Tensor* t : {&rows, &expert_out, &d_rows}) *t = window.take(c.dtype, {capacity, c.hidden});
    route = dispatcher->make_route(window, c.tokens, capacity);
    ctx.state = static_cast<StepState*>(state.raw());
  };
  const auto run = [&] {
    count_choices(ctx, routing.counts, routing.expert_index);
    dispatcher->dispatch(ctx, rows, x, routing, route);
    copy(ctx, expert_out, rows);
    dispatcher->combine(ctx, out, expert_out, routing.expert_weight, x, route);
    dispatcher->combine_backward(ctx, d_rows, d_weight, d_out, expert_out, routing.expert_weight, route);
    dispatcher->dispatch_backward(ctx, d_x, d_rows, d_out, route);
  };
  ctx.planning = true;
  take();
  // Ops that need no workspace are not asked while planning.
  dispatcher->dispatch(ctx, rows, x, routing, route);
  dispatcher->combine(ctx, out, expert_out, routing.expert_weight, x, route);
  dispatcher->combine_backward(ctx, d_rows, d_weight, d_out, expert_out, routing.expert_weight, route);
  dispatcher->dispatch_backward(ctx, d_x, d_rows, d_out, route);
  ctx.planning = false;
  ctx.compute = Stream(device);
  ctx.communication = Stream(device);
  if (memory == nullptr) {
    window.allocate();
  } else {
    memory->allocate(window.peak());
    window.adopt(memory->data(), window.peak());
  }
  own.allocate();
  workspace.allocate();
  take();

  std::vector<ExchangedRows> results;
  CapturedGraph graph(ctx.compute, run);
  for (int round = 0; round < rounds; ++round) {
    const auto seed = static_cast<uint32_t>(100 * round + ep.rank());
    std::mt19937 generator(seed);
    const int last = c.last_chosen < 0 ? c.experts - 1 : c.last_chosen;
    std::vector<int32_t> choices(static_cast<size_t>(last - c.first_chosen + 1));
    std::vector<int32_t> index;
    for (int64_t t = 0; t < c.tokens; ++t) {
      std::iota(choices.begin(), choices.end(), c.first_chosen);
      std::shuffle(choices.begin(), choices.end(), generator);
      index.insert(index.end(), choices.begin(), choices.begin() + c.top_k);
    }
    upload<int32_t>(routing.expert_index, index);
    upload<float>(routing.expert_weight, random_values(c.tokens * c.top_k, seed + 1));
    upload_as(x, random_values(x.numel(), seed + 2));
    upload_as(d_out, random_values(x.numel(), seed + 3));
    clear_tensor(state);
    // What the host waits for now would wait for another rank's kernel too, where they share a GPU.
    ExecutionContext host;
    ep.barrier(host);
    // The first round runs op by op: what is loaded once is loaded then.
    captured&& round > 0 ? graph.run() : run();
    ctx.compute.synchronize();
    if (memory != nullptr) {
      memory->queue_check(ctx.compute);
      ctx.compute.synchronize();
      memory->check();
    }
    ExchangedRows& result = results.emplace_back();
    const RowGroups groups = dispatcher->groups(routing, route);
    result.offsets = download<int32_t>(groups.offsets);
    result.sizes = download<int32_t>(groups.sizes);
    const int64_t came = result.offsets.back();
    if (came > 0) {
      result.rows = download_as_float(rows.rows(0, came));
      result.d_rows = download_as_float(d_rows.rows(0, came));
    }
    result.out = download_as_float(out);
    result.d_x = download_as_float(d_x);
    result.d_weight = download<float>(d_weight);
    StepState found;
    copy_tensor(Tensor(&found, DType::kU8, {sizeof found}), state);
    result.overflow = found.out.row_overflow;
  }
  return results;
}

using OfRanks = std::vector<std::vector<ExchangedRows>>;  // [rank][round]

OfRanks exchange_on(const ExchangeOfRows& c, const std::function<Device(int)>& device_of, bool on_device, int rounds,
                    bool captured = false) {
  OfRanks results(static_cast<size_t>(c.ranks));
  run_thread_ranks(c.ranks, [&](Transport& transport) {
    std::vector<int> all(static_cast<size_t>(c.ranks));
    std::iota(all.begin(), all.end(), 0);
    HostCommunicator ep(transport, "ep", all, 0, 60);
    const Device device = device_of(ep.rank());
    use_device(device);
    std::optional<testing::ThreadMemory> memory;
    if (on_device) memory.emplace(device, ep);
    results[static_cast<size_t>(ep.rank())] =
        exchange_rows(c, device, ep, on_device ? &*memory : nullptr, rounds, captured);
  });
  return results;
}

Device the_cpu(int /*rank*/) {
  return {};
}

std::vector<ExchangeOfRows> cases() {
  return {
      {},
      {.ranks = 3, .experts = 6, .top_k = 2, .tokens = 5, .hidden = 7},
      {.ranks = 4, .experts = 64, .top_k = 6, .tokens = 130, .hidden = 256, .dtype = DType::kBF16},
      {.ranks = 4, .experts = 16, .top_k = 9, .tokens = 33, .hidden = 1544, .dtype = DType::kBF16},
      {.ranks = 4, .top_k = 2, .last_chosen = 1},   // all go to the first rank
      {.ranks = 2, .top_k = 2, .first_chosen = 4},  // none does
      {.ranks = 4, .experts = 384, .top_k = 8, .tokens = 9, .hidden = 32},
      {.ranks = 2, .tokens = 0},
  };
}

// Reads only where there are rows.
void expect_same(const OfRanks& found, const OfRanks& expected) {
  for (size_t rank = 0; rank < expected.size(); ++rank) {
    for (size_t round = 0; round < expected[rank].size(); ++round) {
      SCOPED_TRACE("rank " + std::to_string(rank) + ", round " + std::to_string(round));
      const ExchangedRows &a = found[rank][round], &b = expected[rank][round];
      EXPECT_EQ(a.offsets, b.offsets);
      EXPECT_EQ(a.sizes, b.sizes);
      EXPECT_TRUE(a.rows == b.rows);
      EXPECT_TRUE(a.d_rows == b.d_rows);
      EXPECT_TRUE(a.out == b.out);
      EXPECT_TRUE(a.d_x == b.d_x);
      EXPECT_TRUE(a.d_weight == b.d_weight);
      EXPECT_EQ(a.overflow, b.overflow);
    }
  }
}

TEST(OnDeviceDispatcher, HasThePlacesAndBitsOfAllToAll) {
  for (const ExchangeOfRows& c : cases()) {
    SCOPED_TRACE("ranks " + std::to_string(c.ranks) + ", tokens " + std::to_string(c.tokens));
    expect_same(exchange_on(c, the_cpu, true, 3), exchange_on(c, the_cpu, false, 3));
  }
}

// Where one rank has no room none gets rows, and all say so; the round behind it, which fits, is as ever.
TEST(OnDeviceDispatcher, AllRanksSayThatRowsOverflow) {
  const ExchangeOfRows c{.ranks = 4, .top_k = 2, .tokens = 6, .room = 1.5, .last_chosen = 1};
  for (const auto& of_rank : exchange_on(c, the_cpu, true, 2)) {
    for (const ExchangedRows& result : of_rank) {
      EXPECT_EQ(result.overflow, 1);
      EXPECT_TRUE(result.rows.empty());
      EXPECT_EQ(result.offsets, std::vector<int32_t>(3, 0));
      EXPECT_EQ(result.d_weight, std::vector<float>(12, 0.0f));
    }
  }
}

TEST(OnDeviceDispatcher, NamesTheRankThatDoesNotCome) {
  run_thread_ranks(2, [](Transport& transport) {
    HostCommunicator ep(transport, "ep", {0, 1}, 0, 60);
    testing::ThreadMemory memory({}, ep, /*deadline=*/0.2);
    memory.allocate(64);
    if (ep.rank() == 1) return;
    ExecutionContext ctx;
    meet_ranks(ctx, memory.peers());
    memory.queue_check(ctx.compute);
    expect_runtime_error([&] { memory.check(); },
                         "rank 0 waited 0.2 s for rank 1 to arrive at barrier 1; see the log of rank 1 for why it "
                         "stopped, or raise the time-out if it was only slow");
  });
}

class OnDeviceDispatcherOnGpu : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Machine code that is loaded while another rank's kernel waits would wait for it.
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  }
  void SetUp() override {
    Device gpu;
    DT_TAKE_GPU(gpu);
  }
  static void expect_those_of_the_cpu(const std::function<Device(int)>& device_of, bool captured) {
    for (const ExchangeOfRows& c : cases()) {
      SCOPED_TRACE("ranks " + std::to_string(c.ranks) + ", tokens " + std::to_string(c.tokens));
      expect_same(exchange_on(c, device_of, true, 4, captured), exchange_on(c, the_cpu, true, 4));
    }
  }
};

Device the_first_gpu(int /*rank*/) {
  return {DeviceKind::kCuda, 0};
}

TEST_F(OnDeviceDispatcherOnGpu, HasTheBitsOfTheCpu) {
  expect_those_of_the_cpu(the_first_gpu, false);
}

TEST_F(OnDeviceDispatcherOnGpu, AGraphHasThemToo) {
  expect_those_of_the_cpu(the_first_gpu, true);
}

TEST_F(OnDeviceDispatcherOnGpu, AllRanksSayThatRowsOverflow) {
  const ExchangeOfRows c{.ranks = 4, .top_k = 2, .tokens = 6, .room = 1.5, .last_chosen = 1};
  expect_same(exchange_on(c, the_first_gpu, true, 3, true), exchange_on(c, the_cpu, true, 3));
}

#ifdef DT_CUDA
TEST_F(OnDeviceDispatcherOnGpu, SeveralGpusHaveTheBitsOfTheCpu) {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus < 2) GTEST_SKIP() << "needs two GPUs, found " << gpus;
  const auto gpu_of = [gpus](int rank) { return Device{DeviceKind::kCuda, rank % gpus}; };
  expect_those_of_the_cpu(gpu_of, false);
  expect_those_of_the_cpu(gpu_of, true);
}
#endif

}  // namespace
}  // namespace deeptitan

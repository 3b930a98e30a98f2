#include "kernels/cuda/all_to_all/all_to_all.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/cuda/virtual_exchange.h"

// Several ranks on one device: every rank is a row of blocks of one launch, and its window is a buffer of this device.

namespace deeptitan::cuda {
namespace {

constexpr MoveDirection kPull = MoveDirection::kPull;
constexpr MoveDirection kPush = MoveDirection::kPush;

/// How an exchange is carried out: with one block or several, by loads and stores or bulk copies, by mailbox or not.
struct Way {
  int blocks;
  bool bulk;
  int64_t mailbox_bytes;
  MoveDirection direction;
};
constexpr Way kWays[] = {{1, false, 0, kPull},    {1, false, 1 << 16, kPull}, {3, false, 1024, kPull},
                         {4, true, 0, kPull},     {4, true, 1024, kPull},     {1, false, 0, kPush},
                         {3, false, 1024, kPush}, {4, true, 0, kPush},        {4, true, 1024, kPush}};

bool has_bulk_copies() {
  int major = 0;
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major >= 9;
}

void expect_exchange(const ExchangeCase& c, const Way& way, SplitType type = SplitType::kInt64) {
  if (way.bulk && !has_bulk_copies()) return;
  SCOPED_TRACE("blocks " + std::to_string(way.blocks) + ", bulk " + std::to_string(way.bulk) + ", mailbox " +
               std::to_string(way.mailbox_bytes) + (way.direction == kPush ? ", push" : ", pull") + ", ranks " +
               std::to_string(c.n_ranks) + ", groups " + std::to_string(c.n_groups) + ", row bytes " +
               std::to_string(c.row_bytes[0]));
  VirtualExchange exchange(c.n_ranks, c.n_groups, way.mailbox_bytes, c.row_bytes, c.most_sent(), c.most_received() + 1);
  exchange.set_direction(way.direction);
  exchange.set_split_type(type);
  exchange.upload(c);
  exchange.run(way.blocks, way.bulk);
  exchange.expect(c);
}

TEST(AllToAll, EqualsCpuTwinOnRaggedSplits) {
  DT_SKIP_WITHOUT_GPU();
  uint32_t seed = 1;
  for (const Way& way : kWays) {
    for (const int n_ranks : {1, 2, 4, 8}) {
      if (only_small_sizes() && n_ranks > 2) continue;
      for (const int n_groups : {1, 5}) {
        for (const int64_t row_bytes : {256, 100, 24}) {
          const SplitType type = seed % 2 == 0 ? SplitType::kInt32 : SplitType::kInt64;
          expect_exchange(make_ragged_case(n_ranks, n_groups, {row_bytes}, 23, ++seed), way, type);
        }
      }
    }
  }
}

TEST(AllToAll, CarriesRowsAndScalesTogether) {
  DT_SKIP_WITHOUT_GPU();
  for (const Way& way : kWays) {
    expect_exchange(make_ragged_case(4, 3, {2048, 64}, 9, 7), way);  // 2048 fp8 values, 16 fp32 scales
    expect_exchange(make_ragged_case(3, 1, {384, 12}, 9, 8), way);   // scales of 12 bytes are not copied in bulk
  }
}

TEST(AllToAll, EmptySplitsAndOneToken) {
  DT_SKIP_WITHOUT_GPU();
  for (const Way& way : kWays) {
    expect_exchange(make_case(std::vector<std::vector<int64_t>>(4, std::vector<int64_t>(4, 0)), 1, {256}, 1), way);
    std::vector<std::vector<int64_t>> one(4, std::vector<int64_t>(4, 0));
    one[2][1] = 1;
    expect_exchange(make_case(one, 1, {256}, 2), way);
  }
}

TEST(AllToAll, AllTokensToOneRank) {
  DT_SKIP_WITHOUT_GPU();
  std::vector<std::vector<int64_t>> splits(8, std::vector<int64_t>(8, 0));
  for (auto& rank_splits : splits) rank_splits[5] = 31;
  for (const Way& way : kWays) expect_exchange(make_case(splits, 1, {512}, 3), way);
}

TEST(AllToAll, AsManyRanksAsTheLargestDomain) {
  DT_SKIP_WITHOUT_GPU();
  expect_exchange(make_ragged_case(kMaxPeerRanks, 2, {32}, 3, 11), {1, false, 128, kPull});
  expect_exchange(make_ragged_case(kMaxPeerRanks, 1, {32}, 3, 12), {1, true, 0, kPush});
}

TEST(AllToAll, BackwardRestoresTheRows) {
  DT_SKIP_WITHOUT_GPU();
  for (const Way& way : kWays) {
    if (way.bulk && !has_bulk_copies()) continue;
    const ExchangeCase forward = make_ragged_case(4, 3, {256}, 20, 21);
    // The gradients are the outputs, the splits those received.
    ExchangeCase backward = forward;
    backward.splits = forward.output_splits;
    backward.output_splits = forward.splits;
    backward.rows = forward.outputs;
    backward.outputs = forward.rows;
    VirtualExchange exchange(4, 3, way.mailbox_bytes, {256}, std::max(forward.most_sent(), forward.most_received()),
                             std::max(forward.most_sent(), forward.most_received()));
    exchange.set_direction(way.direction);
    exchange.upload(forward);
    exchange.run(way.blocks, way.bulk);
    exchange.expect(forward);
    exchange.upload(backward);
    exchange.run(way.blocks, way.bulk);
    exchange.expect(backward);
  }
}

TEST(AllToAll, ManyExchangesOverOnePadAndAcrossTheEpochsWrap) {
  DT_SKIP_WITHOUT_GPU();
  for (const int variant : {0, 1, 2}) {
    VirtualExchange exchange(4, 2, 1024, {128}, 4 * 2 * 12, 4 * 4 * 2 * 12);
    exchange.set_source_reuse(variant == 1 ? SourceReuse::kAfterNextExchange : SourceReuse::kAfterExchange);
    exchange.set_direction(variant == 2 ? kPush : kPull);
    exchange.set_epoch(0xffffffffu - 20);
    for (uint32_t i = 0; i < 40; ++i) {
      const ExchangeCase c = make_ragged_case(4, 2, {128}, 12, 100 + i);
      exchange.upload(c);
      exchange.run(1 + static_cast<int>(i % 3), i % 2 == 1 && has_bulk_copies());
      exchange.expect(c);
      ASSERT_FALSE(::testing::Test::HasFailure()) << "exchange " << i;
    }
    EXPECT_EQ(exchange.state(0).epoch, 21u);  // 20 up to the largest, then from 2
  }
}

TEST(AllToAll, TwoRunsGiveTheSameBits) {
  DT_SKIP_WITHOUT_GPU();
  const ExchangeCase c = make_ragged_case(8, 4, {1024}, 30, 31);
  std::vector<std::vector<uint8_t>> first;
  VirtualExchange exchange(8, 4, 4096, {1024}, c.most_sent(), c.most_received());
  for (int run = 0; run < 2; ++run) {
    exchange.upload(c);
    exchange.run(4, false);
    for (int r = 0; r < 8; ++r) {
      if (run == 0) first.push_back(exchange.output(r, 0));
      EXPECT_TRUE(exchange.output(r, 0) == first[r]);
    }
  }
}

TEST(AllToAll, OverflowLeavesEverythingWholeAndIsSaidOnEveryRank) {
  DT_SKIP_WITHOUT_GPU();
  for (const Way& way : kWays) {
    if (way.bulk && !has_bulk_copies()) continue;
    std::vector<std::vector<int64_t>> splits(3, std::vector<int64_t>{2, 3, 1, 2, 4, 0});
    const ExchangeCase c = make_case(splits, 2, {64}, 41);  // 15, 9 and 12 rows received
    VirtualExchange exchange(3, 2, way.mailbox_bytes, {64}, c.most_sent(), 20);
    exchange.set_direction(way.direction);
    exchange.arguments(0).capacity_rows = 14;
    exchange.arguments(1).capacity_rows = 9;
    exchange.arguments(2).capacity_rows = 11;
    exchange.upload(c);
    std::vector<std::vector<char>> rows;
    for (int r = 0; r < 3; ++r) rows.push_back(exchange.sent_rows(r));
    exchange.run(way.blocks, way.bulk);
    const int64_t received[] = {15, 9, 12};
    for (int r = 0; r < 3; ++r) {
      EXPECT_EQ(exchange.error(r), 0u);
      const AllToAllStatus status = exchange.status(r);
      EXPECT_EQ(status.overflowed, 1);
      EXPECT_EQ(status.overflow_rank, 0);
      EXPECT_EQ(status.rows_needed, 15);
      EXPECT_EQ(status.rows_received, received[r]);
      EXPECT_EQ(exchange.output_splits(r), std::vector<int64_t>(6, 0));
      EXPECT_EQ(exchange.output(r, 0), std::vector<uint8_t>(20 * 64, 0xff));
      EXPECT_TRUE(exchange.sent_rows(r) == rows[r]);
    }
    // The next exchange with room for all goes through; the flag stays until the caller clears it.
    for (int r = 0; r < 3; ++r) exchange.arguments(r).capacity_rows = received[r];
    exchange.run(way.blocks, way.bulk);
    for (int r = 0; r < 3; ++r) {
      EXPECT_EQ(exchange.output_splits(r), c.output_splits[r]);
      const std::vector<uint8_t> output = exchange.output(r, 0);
      EXPECT_TRUE(std::equal(c.outputs[r][0].begin(), c.outputs[r][0].end(), output.begin()));
      EXPECT_EQ(exchange.status(r).overflowed, 1);
    }
  }
}

TEST(AllToAll, RankThatNeverComesEndsTheWait) {
  DT_SKIP_WITHOUT_GPU();
  const ExchangeCase c = make_ragged_case(3, 1, {64}, 5, 51);
  VirtualExchange exchange(3, 1, 0, {64}, c.most_sent(), c.most_received());
  exchange.set_timeout(20'000'000);
  exchange.set_epoch(6);
  exchange.upload(c);
  exchange.run(2, false, 2);  // ranks 0 and 1 alone
  for (int r = 0; r < 2; ++r) {
    const WaitError error = decode_wait_error(exchange.error(r));
    EXPECT_EQ(error.kind, WaitKind::kSplits);
    EXPECT_EQ(error.rank, r);
    EXPECT_EQ(error.peer, 2);
    EXPECT_EQ(error.epoch, 7u);
  }
  EXPECT_EQ(
      describe_wait_error(exchange.error(1), 20'000'000),
      "rank 1 waited 0.02 s for rank 2 to send its splits of all-to-all 7; see the log of rank 2 for why it stopped, "
      "or raise the time-out if it was only slow");
  // Later exchanges end at once, without waiting and without signals to others.
  const uint64_t first_error = exchange.error(0);
  exchange.set_timeout(3'600'000'000'000);
  exchange.run(2, false, 2);
  EXPECT_EQ(exchange.error(0), first_error);
  EXPECT_EQ(exchange.output(0, 0), std::vector<uint8_t>(exchange.output(0, 0).size(), 0xff));
}

/// The words that rank `source` would announce to rank 0 in the first exchange, of two blocks, put there by hand.
void forge_splits(VirtualExchange& exchange, int n_ranks, int source, const std::vector<int64_t>& rows,
                  int64_t capacity) {
  const AllToAllArguments& a = exchange.arguments(0);
  const PadLayout layout(a.pad, n_ranks);
  std::vector<uint64_t> words;
  for (const int64_t n : rows) words.push_back(uint64_t{1} << 32 | static_cast<uint64_t>(n));
  words.push_back(uint64_t{1} << 32 | static_cast<uint64_t>(capacity));
  words.push_back(uint64_t{1} << 32 | 2);
  DT_CUDA_CHECK(cudaMemcpy(exchange.window_data(0) + a.pad.offset + layout.split_offset(1, source), words.data(),
                           words.size() * 8, cudaMemcpyHostToDevice));
}

TEST(AllToAll, AnnouncedRowsThatNeverComeEndTheWait) {
  DT_SKIP_WITHOUT_GPU();
  const ExchangeCase c = make_case({{2, 3}, {4, 1}}, 1, {64}, 61);
  VirtualExchange exchange(2, 1, 1024, {64}, 5, 6);
  exchange.set_timeout(20'000'000);
  exchange.upload(c);
  forge_splits(exchange, 2, 1, {4, 1}, 6);
  exchange.run(1, false, 1);
  const WaitError error = decode_wait_error(exchange.error(0));
  EXPECT_EQ(error.kind, WaitKind::kRows);
  EXPECT_EQ(error.rank, 0);
  EXPECT_EQ(error.peer, 1);
  EXPECT_EQ(error.epoch, 1u);
}

TEST(AllToAll, PeerThatNeverFinishesEndsTheWaitUnlessSourcesAreReusedLater) {
  DT_SKIP_WITHOUT_GPU();
  const ExchangeCase c = make_case({{2, 3}, {4, 1}}, 1, {64}, 62);
  const auto kind_after = [&](MoveDirection direction, SourceReuse reuse) {
    VirtualExchange exchange(2, 1, 0, {64}, 5, 6);
    exchange.set_timeout(20'000'000);
    exchange.set_direction(direction);
    exchange.set_source_reuse(reuse);
    exchange.upload(c);
    forge_splits(exchange, 2, 1, {4, 1}, 6);
    exchange.run(2, false, 1);
    if (direction == kPull) {
      EXPECT_EQ(exchange.output(0, 0), c.outputs[0][0]);
    }
    return decode_wait_error(exchange.error(0)).kind;
  };
  EXPECT_EQ(kind_after(kPull, SourceReuse::kAfterExchange), WaitKind::kRelease);
  EXPECT_EQ(kind_after(kPull, SourceReuse::kAfterNextExchange), WaitKind::kNone);
  EXPECT_EQ(kind_after(kPush, SourceReuse::kAfterExchange), WaitKind::kRows);
  EXPECT_EQ(kind_after(kPush, SourceReuse::kAfterNextExchange), WaitKind::kRows);
}

TEST(AllToAll, InvalidSplitsAreReportedAndMoveNothing) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t bad : {int64_t{-1}, int64_t{1} << 31}) {
    const ExchangeCase c = make_case({{2, 3}, {4, 1}}, 1, {64}, 63);
    VirtualExchange exchange(2, 1, 1024, {64}, 5, 6);
    exchange.set_timeout(20'000'000);
    exchange.upload(c);
    const int64_t splits[] = {2, bad};
    DT_CUDA_CHECK(cudaMemcpy(const_cast<void*>(exchange.arguments(0).splits), splits, 16, cudaMemcpyHostToDevice));
    exchange.run(1, false);
    EXPECT_EQ(
        describe_wait_error(exchange.error(0), 1),
        "all-to-all 1: rank 0 asked to send rank 1 a number of rows that is negative or above 2147483647; check the "
        "splits that it was given");
    EXPECT_EQ(decode_wait_error(exchange.error(1)).kind, WaitKind::kSplits);
    for (int r = 0; r < 2; ++r) EXPECT_EQ(exchange.output(r, 0), std::vector<uint8_t>(6 * 64, 0xff));
  }
}

TEST(AllToAll, MoreThanTwoToThe31Elements) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kRowBytes = 7168;
  constexpr int64_t kRows = (int64_t{1} << 31) / kRowBytes + 5;  // of fp8
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  DT_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (free_bytes < 4 * static_cast<size_t>(kRows * kRowBytes) + (1 << 30)) {
    GTEST_SKIP() << "needs 9.6 GB of device memory, " << free_bytes << " bytes are free";
  }
  // Rank 0 sends all its rows to rank 1, rank 1 all but one to rank 0 and that one to itself.
  VirtualExchange exchange(2, 1, 0, {kRowBytes}, kRows, kRows + 1);
  exchange.set_direction(has_bulk_copies() ? kPush : kPull);
  const std::vector<std::vector<int64_t>> splits = {{0, kRows}, {kRows - 1, 1}};
  for (int r = 0; r < 2; ++r) {
    const AllToAllArguments& a = exchange.arguments(r);
    DT_CUDA_CHECK(cudaMemcpy(const_cast<void*>(a.splits), splits[r].data(), 16, cudaMemcpyHostToDevice));
    fill_words(reinterpret_cast<uint32_t*>(exchange.window_data(r) + a.payloads[0].input_offset), kRows * kRowBytes / 4,
               static_cast<uint32_t>(r), nullptr);
  }
  exchange.run(32, has_bulk_copies());
  DeviceBuffer<unsigned long long> mismatches(std::vector<unsigned long long>(1, 0));
  const auto* first = static_cast<const uint32_t*>(exchange.arguments(0).payloads[0].output);
  const auto* second = static_cast<const uint32_t*>(exchange.arguments(1).payloads[0].output);
  count_mismatches(first, (kRows - 1) * kRowBytes / 4, 1, mismatches.get(), nullptr);
  count_mismatches(second, kRows * kRowBytes / 4, 0, mismatches.get(), nullptr);
  EXPECT_EQ(mismatches.download()[0], 0u);
  EXPECT_EQ(exchange.error(0), 0u);
  EXPECT_EQ(exchange.output_splits(1), (std::vector<int64_t>{kRows, 1}));
}

TEST(AllToAll, LauncherCanBeCapturedAndReplayed) {
  DT_SKIP_WITHOUT_GPU();
  const ExchangeCase c = make_ragged_case(1, 3, {4096}, 200, 71);
  VirtualExchange exchange(1, 3, 0, {4096}, c.most_sent(), c.most_received());
  exchange.upload(c);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  DT_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  all_to_all_v(exchange.arguments(0), stream);
  DT_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  DT_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 3; ++i) DT_CUDA_CHECK(cudaGraphLaunch(executable, stream));
  DT_CUDA_CHECK(cudaStreamSynchronize(stream));
  exchange.expect(c);
  EXPECT_EQ(exchange.state(0).epoch, 3u);
  DT_CUDA_CHECK(cudaGraphExecDestroy(executable));
  DT_CUDA_CHECK(cudaGraphDestroy(graph));
  DT_CUDA_CHECK(cudaStreamDestroy(stream));
}

/// Arguments that pass every check, for ranks of a window that does not exist.
AllToAllArguments valid_arguments() {
  AllToAllArguments a{};
  a.window.n_ranks = 2;
  a.pad = {0, 4, 1024};
  a.payloads[0] = {4096, nullptr, 256};
  a.payloads[1] = {8192, nullptr, 8};
  a.n_payloads = 2;
  a.n_groups = 4;
  a.capacity_rows = 10;
  a.timeout_ns = 1;
  return a;
}

template <typename Change>
std::string message_of(Change change) {
  AllToAllArguments a = valid_arguments();
  change(a);
  try {
    all_to_all_v(a, nullptr);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(AllToAllArguments, MistakesAreNamed) {
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.window.n_ranks = 73; }),
            "all-to-all: rank 0 of 73 ranks; a window holds 1 to 72 ranks");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.window.rank = 2; }),
            "all-to-all: rank 2 of 2 ranks; a window holds 1 to 72 ranks");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.n_groups = 5; }),
            "all-to-all: n_groups = 5, but the pad was laid out for 1 to 4; raise its max_groups");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.pad.offset = 64; }),
            "all-to-all: pad.offset = 64 is not a multiple of 128");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.pad.mailbox_bytes = 100; }),
            "all-to-all: pad.mailbox_bytes = 100 is not a multiple of 128 in [0, 1073741824]");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.n_payloads = 3; }),
            "all-to-all: n_payloads = 3; use 1, or 2 for rows and their scales");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.payloads[1].row_bytes = 6; }),
            "all-to-all: payload 1 has rows of 6 bytes; they must be a multiple of 4 in [4, 1073741824]");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.payloads[0].input_offset = 8; }),
            "all-to-all: payload 0 lies at window offset 8 and output 0x0; both must be multiples of 16");
  EXPECT_EQ(
      message_of([](AllToAllArguments& a) {
        a.direction = kPush;
        a.window.base[0] = reinterpret_cast<char*>(0x1000);
      }),
      "all-to-all: payload 0 is to be pushed, but its output 0x0 lies before the window at 0x1000; push needs outputs "
      "in the window, pull does not");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.capacity_rows = int64_t{1} << 31; }),
            "all-to-all: capacity_rows = 2147483648 is not in [0, 2147483647]");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.max_blocks = -1; }),
            "all-to-all: max_blocks = -1 is negative; use 0 for the default");
  EXPECT_EQ(message_of([](AllToAllArguments& a) { a.timeout_ns = 0; }),
            "all-to-all: timeout_ns = 0; give the longest wait in nanoseconds, above zero");
}

TEST(AllToAllPad, HoldsWhatTheLayoutSays) {
  // 2 x 2 sources of (2 + 2 + 3 -> 16) words, 2 finished words, 2 x 2 mailboxes of 32 words.
  EXPECT_EQ(all_to_all_pad_bytes({0, 3, 128}, 2), 2 * 2 * 16 * 8 + 128 + 2 * 2 * 32 * 8);
  EXPECT_EQ(all_to_all_pad_bytes({0, 3, 0}, 1), 2 * 1 * 16 * 8 + 128);
  EXPECT_EQ(next_epoch(0), 1u);
  EXPECT_EQ(next_epoch(0xfffffffeu), 0xffffffffu);
  EXPECT_EQ(next_epoch(0xffffffffu), 2u);
}

}  // namespace
}  // namespace deeptitan::cuda

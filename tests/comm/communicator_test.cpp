#include "comm/communicator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/collective_checks.h"
#include "comm/host_communicator.h"
#include "comm/planned_transport.h"
#include "comm/socket_transport.h"
#include "comm/thread_ranks.h"
#include "support/expect_error.h"
#include "support/self_communicator.h"

namespace deeptitan {
namespace {

// On 1 to 4 ranks, with whole messages and with such as are cut.
void on_thread_ranks(void (*check)(Transport&, uint64_t)) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const size_t max_message : {size_t{1} << 30, size_t{40}}) {
      for (uint64_t seed = 0; seed < 5; ++seed) {
        run_thread_ranks(
            ranks, [&](Transport& transport) { check(transport, seed); }, max_message);
      }
    }
  }
}

TEST(ThreadRanks, AllReduceAddsInTheOrderOfTheRanks) {
  on_thread_ranks(check_all_reduce);
}

TEST(ThreadRanks, ReduceScatterAndAllGatherTakeEmptyParts) {
  on_thread_ranks(check_reduce_scatter_and_all_gather);
}

TEST(ThreadRanks, AllToAllMovesRowsAndLeavesTheRestAlone) {
  on_thread_ranks(check_all_to_all);
}

TEST(ThreadRanks, RanksThatSendToEachOtherFirstDoNotWaitForEver) {
  on_thread_ranks(check_send_and_receive);
}

TEST(ThreadRanks, BroadcastFromEveryRank) {
  on_thread_ranks(check_broadcast_and_barrier);
}

// Runs a function as every rank, each in a thread with sockets of its own.
void run_socket_ranks(int ranks, const std::function<void(SocketTransport&)>& body) {
  std::vector<std::vector<int>> sockets = connect_all(ranks);
  std::vector<std::thread> threads;
  threads.reserve(ranks);
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      SocketTransport transport(r, sockets[r]);
      try {
        body(transport);
      } catch (const Error& error) {
        ADD_FAILURE() << "rank " << r << ": " << error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(SocketRanks, ExchangeAsEveryTransportDoes) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      for (const auto check : {check_all_reduce, check_reduce_scatter_and_all_gather, check_all_to_all,
                               check_send_and_receive, check_broadcast_and_barrier}) {
        run_socket_ranks(ranks, [&](Transport& transport) { check(transport, seed); });
      }
    }
  }
}

// More than a socket holds, to each other at once, and received in another order than the channels were sent in.
TEST(SocketRanks, LongMessagesOfManyChannelsMeetWhoWaitsForThem) {
  constexpr int64_t kCount = 1'500'000;
  run_socket_ranks(3, [&](SocketTransport& transport) {
    ExecutionContext ctx;
    std::vector<std::vector<float>> sent, received(6, std::vector<float>(kCount));
    HostCommunicator first(transport, "first", {0, 1, 2}, 1), second(transport, "second", {0, 1, 2}, 2);
    for (int channel = 0; channel < 2; ++channel) {
      sent.emplace_back(kCount, static_cast<float>(10 * transport.rank() + channel));
    }
    const auto view = [&](std::vector<float>& x) { return Tensor(x.data(), DType::kF32, {kCount}); };
    for (int r = 0; r < 3; ++r) {
      if (r == transport.rank()) continue;
      first.send(ctx, view(sent[0]), r);
      second.send(ctx, view(sent[1]), r);
    }
    for (int r = 0; r < 3; ++r) {
      if (r == transport.rank()) continue;
      second.receive(ctx, view(received[2 * r + 1]), r);
      first.receive(ctx, view(received[2 * r]), r);
      for (int channel = 0; channel < 2; ++channel) {
        EXPECT_EQ(received[2 * r + channel], std::vector<float>(kCount, static_cast<float>(10 * r + channel)));
      }
    }
    first.finish_sends(ctx);
    second.finish_sends(ctx);
  });
}

TEST(SocketRanks, ARankThatHasEndedIsNamedAlsoByThoseThatWaitForAnother) {
  std::vector<std::vector<int>> sockets = connect_all(3);
  std::string messages[2];
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      SocketTransport transport(r, sockets[r], [](const std::vector<int>& ended) {
        return "these have ended: " + std::to_string(ended.front()) + " of " + std::to_string(ended.size());
      });
      HostCommunicator group(transport, "world", {0, 1, 2}, 0, 60);
      ExecutionContext ctx;
      float x = 0;
      // Rank 0 waits for rank 2, and rank 1 for rank 0.
      messages[r] = message_of([&] { group.receive(ctx, Tensor(&x, DType::kF32, {1}), r == 0 ? 2 : 0); });
      if (r == 0) std::this_thread::sleep_for(std::chrono::seconds(3));
    });
  }
  { const SocketTransport ended(2, sockets[2]); }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(messages[0], "these have ended: 2 of 1");
  EXPECT_EQ(messages[1], "these have ended: 2 of 1");
}

// Rank 0 waits for rank 1, which waits for rank 2, which has stopped: rank 1 names it as soon as rank 0 has given up,
// however much longer its own deadline is, and also where it waits for rank 0, too, which has ended.
TEST(SocketRanks, WhoIsGivenUpNamesTheOneThatItWaitsForItself) {
  for (const bool waits_for_both : {false, true}) {
    std::vector<std::vector<int>> sockets = connect_all(3);
    std::string messages[2];
    std::vector<std::thread> threads;
    for (int r = 0; r < 2; ++r) {
      threads.emplace_back([&, r] {
        SocketTransport transport(r, sockets[r]);
        HostCommunicator group(transport, "world", {0, 1, 2}, r, r == 0 ? 0.5 : 60);
        ExecutionContext ctx;
        float x = 0;
        const Tensor value(&x, DType::kF32, {1});
        messages[r] = message_of([&] {
          if (r == 0 || !waits_for_both) return group.receive(ctx, value, r + 1);
          group.barrier(ctx);
        });
      });
    }
    const SocketTransport stopped(2, sockets[2]);
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(
        messages[0].starts_with("rank 0 has waited 0.5 s in receive of group world, before the first step, for "
                                "rank 1: it has stopped"))
        << messages[0];
    EXPECT_TRUE(messages[1].starts_with("rank 1 has waited 0.")) << messages[1];
    EXPECT_NE(messages[1].find("of group world, before the first step, for rank 2: it has stopped"), std::string::npos)
        << messages[1];
  }
}

// It was busy, and waits for nobody: what it says is who has ended.
TEST(SocketRanks, WhoIsGivenUpForBeingLateSaysWhoHasEnded) {
  std::vector<std::vector<int>> sockets = connect_all(2);
  std::thread other([&] {
    SocketTransport transport(1, sockets[1]);
    HostCommunicator group(transport, "world", {0, 1}, 0, 0.1);
    ExecutionContext ctx;
    message_of([&] { group.barrier(ctx); });
  });
  other.join();
  SocketTransport transport(0, sockets[0]);
  HostCommunicator group(transport, "world", {0, 1}, 0, 60);
  ExecutionContext ctx;
  float x = 0;
  EXPECT_EQ(message_of([&] {
              group.barrier(ctx);
              group.receive(ctx, Tensor(&x, DType::kF32, {1}), 1);
            }),
            "rank 1 has ended");
}

// As by Ctrl-Z: the time in which it could not look is not that of the rank that it waits for.
TEST(SocketRanks, ARankThatWasItselfStoppedHasNotWaited) {
  std::vector<std::vector<int>> sockets = connect_all(2);
  const pid_t child = ::fork();
  const int rank = child == 0 ? 1 : 0;
  ::close(sockets[1 - rank][rank]);
  ExecutionContext ctx;
  float x = 7;
  int ended_well = 1;
  {
    SocketTransport transport(rank, sockets[rank]);
    HostCommunicator group(transport, "world", {0, 1}, 0, 2);
    if (rank == 1) {
      const std::string message = message_of([&] { group.receive(ctx, Tensor(&x, DType::kF32, {1}), 0); });
      ::_exit(message == "no error" ? 0 : 1);
    }
    const auto wait = [](double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); };
    wait(0.2);
    ::kill(child, SIGSTOP);
    wait(2.5);
    ::kill(child, SIGCONT);
    wait(0.3);
    group.send(ctx, Tensor(&x, DType::kF32, {1}), 1);
    ::waitpid(child, &ended_well, 0);
  }
  EXPECT_EQ(ended_well, 0);
}

TEST(SocketRanks, AMessageOfAnotherLengthIsAnError) {
  for (const bool receive_first : {false, true}) {
    std::vector<std::vector<int>> sockets = connect_all(2);
    SocketTransport a(0, sockets[0]), b(1, sockets[1]);
    std::vector<char> data(40);
    Transport::Message received = 0;
    if (receive_first) received = b.begin_receive(data.data(), 8, 0, 3);
    const Transport::Message sent = a.begin_send(data.data(), 16, 1, 3);
    EXPECT_TRUE(a.done(sent));
    if (!receive_first) {
      // It has come before somebody waits for it.
      const Transport::Message other = b.begin_receive(data.data() + 16, 1, 0, 4);
      EXPECT_FALSE(b.done(other));
      b.give_up(other);
      received = b.begin_receive(data.data(), 8, 0, 3);
    }
    expect_runtime_error([&] { b.done(received); }, "rank 1 expected 8 bytes of rank 0, which sent 16");
  }
}

// Longer than the staging memory, so that a part is added slice by slice.
TEST(ThreadRanks, SumsLongerThanTheStagingMemory) {
  constexpr int64_t kCount = 3'000'001;
  run_thread_ranks(2, [&](Transport& transport) {
    HostCommunicator group(transport, "dp", {0, 1}, 0);
    ExecutionContext ctx;
    std::vector<float> x(kCount);
    for (int64_t i = 0; i < kCount; ++i) x[i] = static_cast<float>(i % 1000) + static_cast<float>(transport.rank());
    group.all_reduce(ctx, Tensor(x.data(), DType::kF32, {kCount}));
    int64_t wrong = 0;
    for (int64_t i = 0; i < kCount; ++i) wrong += x[i] != 2 * static_cast<float>(i % 1000) + 1;
    EXPECT_EQ(wrong, 0);
  });
}

TEST(ThreadRanks, ABarrierHoldsUntilTheLastRankComes) {
  std::atomic<bool> last_came{false};
  run_thread_ranks(3, [&](Transport& transport) {
    HostCommunicator group(transport, "world", {0, 1, 2}, 0);
    ExecutionContext ctx;
    if (transport.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      last_came = true;
    }
    group.barrier(ctx);
    EXPECT_TRUE(last_came);
  });
}

// What a rank says that has waited too long for rank 2 (and 3) of 4. `call` is what all others call.
std::string message_without(std::vector<int> missing, const std::function<void(Communicator&, ExecutionContext&)>& call,
                            int64_t step = 0) {
  return message_of([&] {
    run_thread_ranks(4, [&](Transport& transport) {
      if (std::find(missing.begin(), missing.end(), transport.rank()) != missing.end()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        return;
      }
      HostCommunicator group(transport, "ep", {3, 2, 1, 0}, 0, 0.05);
      StepState state;
      state.in.step = step;
      ExecutionContext ctx;
      ctx.state = &state;
      if (transport.rank() != 0) group.set_deadline(60);  // so that it is rank 0 that speaks
      call(group, ctx);
    });
  });
}

TEST(ThreadRanks, ALateRankIsNamedWithTheOperationAndTheStep) {
  const std::string sum = message_without(
      {2},
      [](Communicator& group, ExecutionContext& ctx) {
        std::vector<float> x(3000);
        group.all_reduce(ctx, Tensor(x.data(), DType::kF32, {3000}));
      },
      17);
  EXPECT_EQ(sum,
            "rank 0 has waited 0.05 s in all_reduce of group ep, in step 17, for rank 2: it has stopped, hangs, or has "
            "more to do than "
            "parallelism.deadline_seconds (--deadline) allows");
  const std::string barrier =
      message_without({1, 2}, [](Communicator& group, ExecutionContext& ctx) { group.barrier(ctx); });
  EXPECT_NE(barrier.find("s in barrier of group ep, before the first step, for ranks 1, 2:"), std::string::npos)
      << barrier;
  // What a step does not name, as saving behind it.
  int64_t exchanges = 0;
  const std::string saving = message_without({1}, [&exchanges](Communicator& group, ExecutionContext& ctx) {
    if (group.rank() != 3) return;
    StepState state;
    state.in.step = 5;
    ctx.state = &state;
    group.finish_sends(ctx);
    ctx.state = nullptr;
    ++exchanges;
    group.barrier(ctx);
  });
  EXPECT_EQ(exchanges, 1);
  EXPECT_NE(saving.find("s in barrier of group ep, after step 5, for ranks 1, 2, 3:"), std::string::npos) << saving;
  const std::string receive = message_without({3}, [](Communicator& group, ExecutionContext& ctx) {
    std::vector<float> x(1);
    if (group.rank() == 3) group.receive(ctx, Tensor(x.data(), DType::kF32, {1}), 0);
  });
  EXPECT_NE(receive.find("s in receive of group ep, before the first step, for rank 3:"), std::string::npos) << receive;
  const std::string send = message_without({3}, [](Communicator& group, ExecutionContext& ctx) {
    std::vector<float> x(1);
    if (group.rank() != 3) return;
    group.send(ctx, Tensor(x.data(), DType::kF32, {1}), 0);
    group.finish_sends(ctx);
  });
  EXPECT_NE(send.find("s in send of group ep, before the first step, for rank 3:"), std::string::npos) << send;
}

TEST(ThreadRanks, WhatARankThrowsEndsTheOthers) {
  expect_runtime_error(
      [] {
        run_thread_ranks(3, [](Transport& transport) {
          HostCommunicator group(transport, "dp", {0, 1, 2}, 0);
          ExecutionContext ctx;
          if (transport.rank() == 1) fail("the disk is full");
          group.barrier(ctx);
        });
      },
      "the disk is full");
}

TEST(ThreadRanks, RowsThatDoNotMeetAreNamed) {
  const std::string message = message_of([] {
    run_thread_ranks(2, [](Transport& transport) {
      HostCommunicator group(transport, "ep", {0, 1}, 0);
      ExecutionContext ctx;
      std::vector<int32_t> sent(8), received(8);
      const std::vector<int64_t> rows = {0, 0}, one{0, 1}, two{2, 0};
      const Tensor send(sent.data(), DType::kI32, {8, 1}), receive(received.data(), DType::kI32, {8, 1});
      if (transport.rank() == 0) group.all_to_all(ctx, receive, rows, send, one);
      if (transport.rank() == 1) group.all_to_all(ctx, receive, two, send, rows);
    });
  });
  EXPECT_EQ(message, "rank 1 expected 8 bytes of rank 0, which sent 4");
}

// A rank of 4 that is only planned: what it would send to the three others.
TEST(PlannedTransport, GroupsCountWhatARankSends) {
  PlannedTransport transport(4, 1);
  HostCommunicator group(transport, "dp", {0, 1, 2, 3}, 0);
  ExecutionContext ctx;
  ctx.planning = true;
  std::vector<float> x(1000);
  const Tensor tensor(x.data(), DType::kF32, {1000});
  const std::vector<int64_t> parts = {250, 250, 250, 250};
  auto sent = [&, before = int64_t{0}]() mutable {
    return group.planned_bytes() - std::exchange(before, group.planned_bytes());
  };
  group.reduce_scatter(ctx, tensor, parts);
  EXPECT_EQ(sent(), 3000);
  group.all_gather(ctx, tensor, parts);
  EXPECT_EQ(sent(), 3000);
  group.all_reduce(ctx, tensor);
  EXPECT_EQ(sent(), 6000);
  group.send(ctx, tensor, 2);
  EXPECT_EQ(sent(), 4000);
  // 40 rows of 16 bytes go out, room for all that could come is there; 30 of them to others where they go evenly.
  const Tensor rows = tensor.reshape({250, 4});
  group.all_to_all(ctx, rows, std::vector<int64_t>{60, 30, 60, 60}, rows, std::vector<int64_t>{0, 30, 10, 0});
  EXPECT_EQ(sent(), 480);
  ctx.planning = false;
  expect_runtime_error([&] { group.barrier(ctx); }, "these ranks are only planned; nothing can be exchanged with them");
}

TEST(SelfCommunicator, LeavesTensorsAloneAndCopiesRowsToItself) {
  SelfCommunicator self("ep");
  ExecutionContext ctx;
  std::vector<float> x = {1, 2, 3, 4}, y(4);
  const Tensor tensor(x.data(), DType::kF32, {4});
  self.all_reduce(ctx, tensor);
  self.reduce_scatter(ctx, tensor, std::vector<int64_t>{4});
  self.all_gather(ctx, tensor, std::vector<int64_t>{4});
  self.broadcast(ctx, tensor, 0);
  self.barrier(ctx);
  EXPECT_EQ(x, (std::vector<float>{1, 2, 3, 4}));
  self.all_to_all(ctx, Tensor(y.data(), DType::kF32, {2, 2}), std::vector<int64_t>{1},
                  Tensor(x.data(), DType::kF32, {2, 2}), std::vector<int64_t>{1});
  EXPECT_EQ(y, (std::vector<float>{1, 2, 0, 0}));
  expect_runtime_error([&] { self.send(ctx, tensor, 0); }, "send in group ep: rank 0 is this rank itself");
}

TEST(Communicator, RefusesWhatDoesNotFitWhilePlanningToo) {
  SelfCommunicator self("dp");
  ExecutionContext ctx;
  ctx.planning = true;
  std::vector<float> x(12);
  const Tensor tensor(x.data(), DType::kF32, {3, 4});
  expect_runtime_error(
      [&] { self.all_reduce(ctx, tensor.columns(0, 2)); },
      "all_reduce in group dp: expected a contiguous tensor, found f32 [3, 2] with rows 4 elements apart");
  expect_runtime_error([&] { self.all_reduce(ctx, Tensor(x.data(), DType::kBF16, {12})); },
                       "all_reduce in group dp adds f32, f64 and i32; found bf16 [12]");
  expect_runtime_error(
      [&] {
        self.all_reduce(ctx, Tensor(x.data(), DType::kF32, {12}, {DeviceKind::kCuda, 1}));
      },
      "all_reduce in group dp: expected a tensor on cpu, found f32 [12] on cuda:1");
  expect_runtime_error(
      [&] {
        self.reduce_scatter(ctx, tensor, std::vector<int64_t>{5, 7});
      },
      "reduce_scatter in group dp: 1 ranks need as many parts, together 12 elements; found [5, 7]");
  expect_runtime_error([&] { self.all_gather(ctx, tensor, std::vector<int64_t>{11}); },
                       "all_gather in group dp: 1 ranks need as many parts, together 12 elements; found [11]");
  expect_runtime_error([&] { self.all_to_all(ctx, tensor, std::vector<int64_t>{3}, tensor, std::vector<int64_t>{4}); },
                       "all_to_all in group dp: rows for 1 ranks, at most 3 together, are to be sent; found [4]");
  expect_runtime_error(
      [&] {
        self.all_to_all(ctx, tensor.columns(0, 4).reshape({4, 3}), std::vector<int64_t>{3}, tensor,
                        std::vector<int64_t>{3});
      },
      "all_to_all in group dp: expected rows of one width and dtype, found f32 [3, 4] sent and f32 [4, 3] received");
  expect_runtime_error([&] { self.broadcast(ctx, tensor, 1); }, "broadcast in group dp: rank 1 of 1");
  Tensor not_there(reinterpret_cast<void*>(64), DType::kF32, {3, 4});
  self.all_reduce(ctx, not_there);  // planning touches nothing
  self.all_to_all(ctx, not_there, std::vector<int64_t>{3}, not_there, std::vector<int64_t>{3});
}

}  // namespace
}  // namespace deeptitan

// The collectives between processes: a program that mpirun starts, every process of which runs all tests.

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "comm/collective_checks.h"
#include "comm/host_communicator.h"
#include "comm/mpi/mpi_world.h"
#include "core/error.h"

namespace deeptitan {
namespace {

MpiWorld* world = nullptr;

void over_mpi(void (*check)(Transport&, uint64_t)) {
  if (world == nullptr) GTEST_SKIP() << "no launcher has started this process; ctest -L mpi does";
  for (uint64_t seed = 0; seed < 20; ++seed) check(world->transport(), seed);
}

TEST(MpiCollectives, AllReduceAddsInTheOrderOfTheRanks) {
  over_mpi(check_all_reduce);
}

TEST(MpiCollectives, ReduceScatterAndAllGatherTakeEmptyParts) {
  over_mpi(check_reduce_scatter_and_all_gather);
}

TEST(MpiCollectives, AllToAllMovesRowsAndLeavesTheRestAlone) {
  over_mpi(check_all_to_all);
}

TEST(MpiCollectives, RanksThatSendToEachOtherFirstDoNotWaitForEver) {
  over_mpi(check_send_and_receive);
}

TEST(MpiCollectives, BroadcastFromEveryRank) {
  over_mpi(check_broadcast_and_barrier);
}

// Beyond what a message of MPI can count, with DEEPTITAN_TEST_LARGE=1: 4 GiB a rank.
TEST(MpiCollectives, MessagesBeyondTwoGibibytes) {
  if (world == nullptr || std::getenv("DEEPTITAN_TEST_LARGE") == nullptr) GTEST_SKIP() << "DEEPTITAN_TEST_LARGE=1";
  constexpr int64_t kBytes = (int64_t{1} << 31) + 5;
  HostCommunicator group(world->transport(), "large", {0, 1}, 0);
  ExecutionContext ctx;
  std::vector<char> x(kBytes, group.rank() == 0 ? 'x' : ' ');
  x.back() = group.rank() == 0 ? 'y' : ' ';
  group.broadcast(ctx, Tensor(x.data(), DType::kU8, {kBytes}), 0);
  EXPECT_EQ(x[kBytes - 2], 'x');
  EXPECT_EQ(x.back(), 'y');
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    const std::optional<deeptitan::Launch> launch = deeptitan::find_launch();
    std::optional<deeptitan::MpiWorld> world;
    if (launch) deeptitan::world = &world.emplace(*launch);
    if (world && std::getenv("DEEPTITAN_TEST_NEVER_ENDS") != nullptr) {
      if (world->rank() > 0) ::pause();
      world->finish(0.5);
    }
    const int failed = RUN_ALL_TESTS();
    if (world) world->finish(deeptitan::kDefaultDeadline);
    return failed;
  } catch (const deeptitan::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    deeptitan::end_all_ranks(1);
    return 1;
  }
}

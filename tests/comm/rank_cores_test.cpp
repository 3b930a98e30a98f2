#include "comm/rank_cores.h"

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(RankCores, RanksOfTheSameCoresShareThem) {
  // A container's two cores for two ranks; four of another host, of which each rank has its own pair.
  const std::vector<std::string> places = {"a 3", "a 3", "b 3", "b c"};
  for (const int rank : {0, 1}) EXPECT_EQ(threads_of_rank(places, rank, 2), 1);
  for (const int rank : {2, 3}) EXPECT_EQ(threads_of_rank(places, rank, 2), 2);
  EXPECT_EQ(threads_of_rank({"a 3", "a 3", "a 3"}, 1, 2), 1);
  EXPECT_EQ(threads_of_rank({"a f", "a f", "a f"}, 1, 16), 5);
}

TEST(RankCores, SayTheCoresOfThisProcess) {
  EXPECT_EQ(host_and_cores(), host_and_cores());
  EXPECT_NE(host_and_cores().find("Cpus_allowed:"), std::string::npos);
}

}  // namespace
}  // namespace deeptitan

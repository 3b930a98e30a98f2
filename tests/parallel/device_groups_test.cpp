#include "parallel/device_groups.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

TEST(DeviceGroups, RowsGoFromKernelToKernelBetweenGpusAlone) {
  const Device gpu{DeviceKind::kCuda, 0};
  const Mesh experts{.ep = 2}, data{.dp_shard = 2};
  EXPECT_TRUE(rows_from_kernel_to_kernel(ExpertDispatcherName::kAuto, experts, gpu));
  EXPECT_TRUE(rows_from_kernel_to_kernel(ExpertDispatcherName::kOnDevice, experts, gpu));
  EXPECT_FALSE(rows_from_kernel_to_kernel(ExpertDispatcherName::kAllToAll, experts, gpu));
  EXPECT_FALSE(rows_from_kernel_to_kernel(ExpertDispatcherName::kAuto, data, gpu));
  EXPECT_FALSE(rows_from_kernel_to_kernel(ExpertDispatcherName::kAuto, experts, {}));
  expect_usage_error(
      [&] { rows_from_kernel_to_kernel(ExpertDispatcherName::kOnDevice, experts, {}); },
      "parallelism.expert_dispatcher = on_device is for ranks with a GPU each, and these run on cpu; use "
      "all_to_all or auto");
}

// By hand: the other ranks of each communicator, of which groups of the same ranks share one, and a link each way and
// pass to either neighbour.
TEST(ConnectionBytes, CountThePeersOfEachCommunicator) {
  const Device gpu{DeviceKind::kCuda, 0};
  const auto bytes = [&](const Mesh& mesh, int rank = 0) { return connection_bytes(mesh, rank, gpu); };
  EXPECT_EQ(bytes({}), 0);
  EXPECT_EQ(connection_bytes({.ep = 4}, 0, {}), 0);
  const int64_t two = bytes({.dp_shard = 2}), four = bytes({.dp_shard = 4});
  const int64_t peer = (four - two) / 2, own = two - peer;
  EXPECT_GT(peer, 0);
  EXPECT_GT(own, int64_t{64} << 20);
  const auto peers = [&](const Mesh& mesh, int rank = 0) {
    return static_cast<double>(bytes(mesh, rank) - own) / peer;
  };
  EXPECT_EQ(peers({.ep = 4}), 3);
  EXPECT_EQ(peers({.ep = 2, .dp_shard = 2}), 3 + 1 + 1);
  EXPECT_EQ(peers({.dp_shard = 2, .dp_replicate = 2}), 3 + 1 + 1);
  EXPECT_EQ(peers({.pp = 2}), 1 + 2 * 2);
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(peers({.pp = 4}, rank), 3 + 2 * 4);
  EXPECT_EQ(peers({.pp = 2, .ep = 2}), 3 + 1 + 1 + 2 * 2);
  // Of a group that hosts of eight share, those of this host and two neighbours: world, ep x dp_shard, ep, pp,
  // dp_shard.
  EXPECT_EQ(peers({.ep = 8}), 7);
  EXPECT_EQ(peers({.pp = 16, .ep = 64, .dp_shard = 2}), 9 + 9 + 9 + 2 + 1 + 2 * 4);
}

}  // namespace
}  // namespace deeptitan

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

}  // namespace
}  // namespace deeptitan

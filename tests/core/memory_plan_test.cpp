#include "core/memory_plan.h"

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

std::vector<std::unique_ptr<Arena>> arenas_on(Device device) {
  std::vector<std::unique_ptr<Arena>> arenas;
  for (const int64_t elements : {1000, 300'000'000}) {
    arenas.push_back(std::make_unique<Arena>("of " + std::to_string(elements), device));
    arenas.back()->take(DType::kF32, {elements});
  }
  return arenas;
}

TEST(MemoryPlan, CountsArenasTheLargestFirst) {
  const auto arenas = arenas_on({});
  const MemoryPlan plan = plan_of(arenas, {});
  ASSERT_EQ(plan.arenas.size(), 2u);
  EXPECT_EQ(plan.arenas[0].name, "of 300000000");
  EXPECT_GE(plan.total(), int64_t{4} * 300'001'000);
  EXPECT_EQ(plan.total(), arenas[0]->peak() + arenas[1]->peak());  // red zones and all
}

TEST(MemoryPlan, OnAGpuTheContextAndItsCodeCountToo) {
  const Device gpu{DeviceKind::kCuda, 0};
  const MemoryPlan plan = plan_of(arenas_on(gpu), gpu);
  ASSERT_EQ(plan.arenas.size(), 4u);
  EXPECT_EQ(plan.arenas[1].name, "CUDA context");
  EXPECT_EQ(plan.arenas[2].name, "CUDA code and graphs");
  EXPECT_EQ(plan.total(), plan.arenas[0].bytes + plan.arenas[3].bytes + cuda_context_bytes(gpu) + kCudaCodeBytes);
}

}  // namespace
}  // namespace deeptitan

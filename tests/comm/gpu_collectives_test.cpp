// The collectives between GPUs: a program that mpirun starts, one process a GPU, every one of which runs all tests.

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "comm/collective_checks.h"
#include "support/gpu_ranks.h"

namespace deeptitan {
namespace {

using testing::gpu_rank;

TEST(GpuCollectives, EveryOperationHasTheBitsOfSumsInTheOrderOfTheRanks) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  const testing::GpuMesh mesh({.pp = gpu_rank().transport().size()});
  const RankGroups& groups = mesh.groups();
  for (uint64_t seed = 0; seed < 20; ++seed) {
    check_every_operation(*groups.world, *groups.pipeline, *groups.pipeline_backward, gpu_rank().device(), seed);
  }
  check_large_sums(*groups.world, gpu_rank().device());
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  return deeptitan::testing::run_gpu_ranks(argc, argv);
}

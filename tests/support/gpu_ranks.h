#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "comm/host_communicator.h"
#include "comm/mpi/mpi_world.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "parallel/device_groups.h"

namespace deeptitan::testing {

/// A process that mpirun has started as one of the ranks of a test, and its GPU.
class GpuRank {
 public:
  bool usable() const { return problem_.empty(); }
  const std::string& problem() const { return problem_; }
  Transport& transport() const { return world_->transport(); }
  Device device() const { return device_; }

  void start() {
    const std::optional<Launch> launch = find_launch();
    if (!launch) return;
    problem_.clear();
    world_.emplace(*launch);
    try {
      device_ = choose_device("cuda", {.rank = world_->local_rank(), .ranks = world_->local_size()}).device;
      use_device(device_);
    } catch (const Error& error) {
      problem_ = error.what();
    }
  }
  void finish() {
    if (world_) world_->finish(kDefaultDeadline);
  }

 private:
  mutable std::optional<MpiWorld> world_;
  std::string problem_ = "no launcher has started this process; ctest -L multi_gpu does";
  Device device_;
};

inline GpuRank& gpu_rank() {
  static GpuRank rank;
  return rank;
}

/// The groups of a mesh of all ranks.
class GpuMesh {
 public:
  explicit GpuMesh(const Mesh& mesh, ExpertDispatcherName dispatcher = ExpertDispatcherName::kAllToAll)
      : host_(gpu_rank().transport(), mesh, kDeadline),
        device_(host_, mesh, gpu_rank().device(), kDeadline, dispatcher) {}
  const RankGroups& groups() const { return device_.groups(); }

 private:
  static constexpr double kDeadline = 60;
  HostGroups host_;
  DeviceGroups device_;
};

/// What main() does in a test program whose processes are ranks with a GPU each.
inline int run_gpu_ranks(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  try {
    gpu_rank().start();
    const int failed = RUN_ALL_TESTS();
    gpu_rank().finish();
    return failed;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    end_all_ranks(1);
    return 1;
  }
}

}  // namespace deeptitan::testing

#define DT_SKIP_WITHOUT_GPU_RANKS() \
  if (!::deeptitan::testing::gpu_rank().usable()) GTEST_SKIP() << ::deeptitan::testing::gpu_rank().problem()

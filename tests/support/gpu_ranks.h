#pragma once

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

/// The groups of a mesh of all ranks. NCCL takes seconds to connect GPUs: each mesh is connected once in a process, and
/// all go on with what the first has connected.
class GpuMesh {
 public:
  explicit GpuMesh(const Mesh& mesh, ExpertDispatcherName dispatcher = ExpertDispatcherName::kAllToAll) {
    std::vector<std::unique_ptr<Connected>>& all = connected();
    const auto found = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one->mesh == mesh; });
    const auto place = static_cast<size_t>(found - all.begin());
    if (place == all.size()) {
      all.push_back(std::make_unique<Connected>(mesh, all.empty() ? nullptr : all.front()->device.connections()));
    }
    groups_ = all[place]->device.groups();
    if (dispatcher == ExpertDispatcherName::kAllToAll) groups_.expert_memory = nullptr;
    if (dispatcher == ExpertDispatcherName::kOnDevice && mesh.ep > 1 && groups_.expert_memory == nullptr) {
      fail("the GPUs of these ranks do not reach each other's memory");
    }
  }
  const RankGroups& groups() const { return groups_; }

  /// Before MPI ends.
  static void disconnect() { connected().clear(); }

 private:
  static constexpr double kDeadline = 60;
  struct Connected {
    Connected(const Mesh& wanted, std::shared_ptr<DeviceConnections> connections)
        : mesh(wanted),
          host(gpu_rank().transport(), mesh, kDeadline),
          device(host, mesh, gpu_rank().device(), kDeadline, ExpertDispatcherName::kAuto, std::move(connections)) {}
    Mesh mesh;
    HostGroups host;
    DeviceGroups device;
  };
  static std::vector<std::unique_ptr<Connected>>& connected() {
    static std::vector<std::unique_ptr<Connected>> all;
    return all;
  }

  RankGroups groups_;
};

/// What main() does in a test program whose processes are ranks with a GPU each.
inline int run_gpu_ranks(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  try {
    gpu_rank().start();
    const int failed = RUN_ALL_TESTS();
    GpuMesh::disconnect();
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

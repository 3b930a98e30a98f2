#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/host_communicator.h"
#include "comm/mesh.h"
#include "config/run_config.h"
#include "core/device.h"
#include "parallel/host_groups.h"
#include "parallel/rank_groups.h"

namespace deeptitan {

/// Whether rows go to experts on other ranks from kernel to kernel where the ranks' GPUs allow it. Throws a usage error
/// where they are to and cannot for all that is known before GPUs are connected.
bool rows_from_kernel_to_kernel(ExpertDispatcherName dispatcher, const Mesh& mesh, Device device);

/// What DeviceGroups takes of a rank's GPU, which is no part of an engine's plan: memory for sums, and what NCCL takes
/// for itself and for the other ranks of each communicator: those of a host of eight, and two neighbours on others. 0
/// on the CPU, and of one rank.
int64_t connection_bytes(const Mesh& mesh, int rank, Device device);

/// What a rank's GPU is connected to others by, which groups of the same ranks share.
class DeviceConnections;

/// A rank's communicators of a mesh, for what lies on its device: the host's own on the CPU, NCCL's on a GPU, which the
/// host's introduce to each other. While it lives, this thread's waits for the GPU have the deadline of the groups.
class DeviceGroups {
 public:
  /// Every rank of the mesh makes one. The host's groups outlive it. Throws where NCCL is not there, and where a rank
  /// does not come within the deadline; and a usage error where rows are to go from kernel to kernel and cannot.
  /// `connections`: those of another mesh of the same world, which this one goes on with; all ranks give them, or none.
  DeviceGroups(const HostGroups& host, const Mesh& mesh, Device device, double deadline = kDefaultDeadline,
               ExpertDispatcherName dispatcher = ExpertDispatcherName::kAuto,
               const std::shared_ptr<DeviceConnections>& connections = nullptr);
  ~DeviceGroups();
  DeviceGroups(const DeviceGroups&) = delete;
  DeviceGroups& operator=(const DeviceGroups&) = delete;

  const RankGroups& groups() const { return groups_; }
  /// nullptr on the CPU, and of one rank.
  std::shared_ptr<DeviceConnections> connections() const;
  /// Where something has failed: ends what others would still be waited for by this rank's GPU.
  void abandon() noexcept;

 private:
  class Nccl;
  RankGroups groups_;
  std::unique_ptr<Nccl> nccl_;
};

}  // namespace deeptitan

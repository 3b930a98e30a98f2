#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/host_communicator.h"
#include "comm/mesh.h"
#include "comm/transport.h"
#include "parallel/rank_groups.h"

namespace deeptitan {

/// A rank's communicators of a mesh, for what lies in the CPU's memory, and which of them training asks for.
class HostGroups {
 public:
  /// Every rank of the mesh makes one. The transport outlives it.
  HostGroups(Transport& transport, const Mesh& mesh, double deadline = kDefaultDeadline);

  const RankGroups& groups() const { return groups_; }

 private:
  Communicator* add(Transport& transport, const Mesh& mesh, MeshGroup group, int channel, double deadline);

  std::vector<std::unique_ptr<Communicator>> communicators_;
  RankGroups groups_;
};

}  // namespace deeptitan

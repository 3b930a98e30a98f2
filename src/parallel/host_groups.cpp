#include "parallel/host_groups.h"

namespace deeptitan {

HostGroups::HostGroups(Transport& transport, const Mesh& mesh, double deadline) {
  const auto make = [&](MeshGroup group) { return add(transport, mesh, group, deadline); };
  groups_.world = groups_.host = make(MeshGroup::kWorld);
  groups_.data = make(MeshGroup::kDense);
  groups_.ep = make(MeshGroup::kExpert);
  Communicator* replicate = make(MeshGroup::kReplicate);
  groups_.dense = {.shard = make(MeshGroup::kDenseShard), .replicate = replicate};
  groups_.experts = {.shard = make(MeshGroup::kDataShard), .replicate = replicate};
}

// Groups of one kind have no rank in common, so the kind is the channel.
Communicator* HostGroups::add(Transport& transport, const Mesh& mesh, MeshGroup group, double deadline) {
  communicators_.push_back(std::make_unique<HostCommunicator>(
      transport, group_name(group), mesh.group(group, transport.rank()), static_cast<int>(group), deadline));
  return communicators_.back().get();
}

}  // namespace deeptitan

#include "parallel/host_groups.h"

namespace deeptitan {

HostGroups::HostGroups(Transport& transport, const Mesh& mesh, double deadline) {
  // Groups of one kind have no rank in common, so the kind is the channel.
  const auto make = [&](MeshGroup group) { return add(transport, mesh, group, static_cast<int>(group), deadline); };
  groups_.world = groups_.host = make(MeshGroup::kWorld);
  groups_.data = make(MeshGroup::kData);
  groups_.ep = make(MeshGroup::kExpert);
  if (mesh.pp > 1) {
    constexpr int kBackwardChannel = 64;  // behind all kinds
    groups_.pipeline = make(MeshGroup::kPipeline);
    groups_.pipeline_backward = add(transport, mesh, MeshGroup::kPipeline, kBackwardChannel, deadline);
  }
  Communicator* replicate = make(MeshGroup::kReplicate);
  groups_.dense = {.shard = make(MeshGroup::kDenseShard), .replicate = replicate};
  groups_.experts = {.shard = make(MeshGroup::kExpertShard), .replicate = replicate};
}

Communicator* HostGroups::add(Transport& transport, const Mesh& mesh, MeshGroup group, int channel, double deadline) {
  communicators_.push_back(std::make_unique<HostCommunicator>(transport, group_name(group),
                                                              mesh.group(group, transport.rank()), channel, deadline));
  return communicators_.back().get();
}

}  // namespace deeptitan

#include "parallel/device_groups.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "comm/nccl_staging.h"
#include "core/error.h"
#ifdef DT_CUDA
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "comm/ipc_memory.h"
#include "comm/late_rank.h"
#include "comm/nccl_communicator.h"
#include "comm/nccl_library.h"
#include "comm/rank_texts.h"
#include "core/cuda_device.h"
#include "core/device_choice.h"
#include "core/stream.h"
#endif

namespace deeptitan {

bool rows_from_kernel_to_kernel(ExpertDispatcherName dispatcher, const Mesh& mesh, Device device) {
  DT_CHECK_USAGE(dispatcher != ExpertDispatcherName::kOnDevice || device.kind == DeviceKind::kCuda,
                 "parallelism.expert_dispatcher = on_device is for ranks with a GPU each, and these run on {}; use "
                 "all_to_all or auto",
                 device_name(device));
  return dispatcher != ExpertDispatcherName::kAllToAll && mesh.ep > 1 && device.kind == DeviceKind::kCuda;
}

namespace {

// What nvidia-smi showed beside the plan on H100s of one host, NCCL 2.28.9 (benchmarks/results/h100.md, Several GPUs):
// its own code and state, and the buffers that it takes for each rank of each communicator.
constexpr int64_t kNcclBytes = 1'052'000'000;
constexpr int64_t kNcclBytesOfPeer = 410'000'000;
// Between hosts it was not measured. A ring passes each host once, so that a rank has neighbours on two others at most.
constexpr int kRanksOfAHost = 8;
constexpr int64_t kPeersOnOtherHosts = 2;

// The ranks of a communicator that `rank` has buffers for.
int64_t peers_in(const std::vector<int>& ranks, int rank) {
  const auto is_here = [&](int other) { return other / kRanksOfAHost == rank / kRanksOfAHost; };
  const int64_t here = std::count_if(ranks.begin(), ranks.end(), is_here);
  return here - 1 + std::min(kPeersOnOtherHosts, std::ssize(ranks) - here);
}

// Both directions between neighbours of a ring of so many.
std::set<std::pair<int, int>> links_of_ring(int size) {
  std::set<std::pair<int, int>> pairs;
  for (int r = 0; r < size; ++r) {
    pairs.emplace(r, (r + 1) % size);
    pairs.emplace((r + 1) % size, r);
  }
  return pairs;
}

}  // namespace

int64_t connection_bytes(const Mesh& mesh, int rank, Device device) {
  if (device.kind == DeviceKind::kCpu || mesh.world() == 1) return 0;
  std::set<std::vector<int>> communicators;
  for (const MeshGroup group : {MeshGroup::kWorld, MeshGroup::kData, MeshGroup::kExpert, MeshGroup::kPipeline,
                                MeshGroup::kReplicate, MeshGroup::kDenseShard, MeshGroup::kExpertShard}) {
    communicators.insert(mesh.group(group, rank));
  }
  int64_t peers = 0;
  for (const std::vector<int>& ranks : communicators) peers += peers_in(ranks, rank);
  if (mesh.pp > 1) {
    const int here = mesh.place(rank).pp;
    for (const auto& [from, to] : links_of_ring(mesh.pp)) {
      if (from == here || to == here) peers += 2;  // forward and backward
    }
  }
  return NcclStaging::kBytes + kNcclBytes + peers * kNcclBytesOfPeer;
}

#ifdef DT_CUDA

namespace {

std::string to_text(const ncclUniqueId& id) {
  return {id.internal, sizeof id.internal};
}

ncclUniqueId to_id(std::string_view text) {
  ncclUniqueId id;
  DT_CHECK(text.size() == sizeof id.internal, "an NCCL id has {} bytes; another rank sent {}", sizeof id.internal,
           text.size());
  std::memcpy(id.internal, text.data(), sizeof id.internal);
  return id;
}

}  // namespace

class DeviceConnections {
 public:
  explicit DeviceConnections(Device device)
      : staging(std::make_shared<NcclStaging>(device)), operations(std::make_shared<NcclOperations>()) {}

  std::shared_ptr<NcclStaging> staging;
  std::shared_ptr<NcclOperations> operations;
  std::map<std::vector<int>, std::shared_ptr<NcclHandle>> by_ranks;
};

/// The communicators of GPUs. Groups of the same ranks share one of NCCL's: all that they do is queued in one stream.
class DeviceGroups::Nccl {
 public:
  Nccl(const HostGroups& host, const Mesh& mesh, Device device, double deadline,
       std::shared_ptr<DeviceConnections> connections)
      : host_(*host.groups().host),
        mesh_(mesh),
        device_(device),
        deadline_(deadline),
        rank_(host_.rank()),
        connections_(std::move(connections)) {
    // What graphs send is not registered with NCCL: sends of registered memory were seen to hang (NCCL 2.28.9).
    ::setenv("NCCL_GRAPH_REGISTER", "0", /*overwrite=*/0);
    check_own_gpu();
    use_device(device);
    if (connections_ == nullptr) connections_ = std::make_shared<DeviceConnections>(device);
  }

  const std::shared_ptr<DeviceConnections>& connections() const { return connections_; }

  RankGroups make() {
    RankGroups groups;
    groups.host = &host_;
    groups.world = add(MeshGroup::kWorld);
    groups.data = add(MeshGroup::kData);
    groups.ep = add(MeshGroup::kExpert);
    if (mesh_.pp > 1) {
      groups.pipeline = add(MeshGroup::kPipeline, /*links=*/true);
      groups.pipeline_backward = add(MeshGroup::kPipeline, /*links=*/true);
    }
    Communicator* replicate = add(MeshGroup::kReplicate);
    groups.dense = {.shard = add(MeshGroup::kDenseShard), .replicate = replicate};
    groups.experts = {.shard = add(MeshGroup::kExpertShard), .replicate = replicate};
    for (const auto& communicator : communicators_) connect(*communicator);
    set_wait_watch([this](double waited) { watch(waited); });
    return groups;
  }

  // `ep`: the group of the host.
  void connect_experts(RankGroups& groups, Communicator& ep, ExpertDispatcherName dispatcher) {
    if (!rows_from_kernel_to_kernel(dispatcher, mesh_, device_)) return;
    const std::string problem = why_not_reached(device_, ep);
    DT_CHECK_USAGE(problem.empty() || dispatcher == ExpertDispatcherName::kAuto,
                   "parallelism.expert_dispatcher = on_device: {}; use all_to_all, or a smaller expert_parallel_degree",
                   problem);
    if (!problem.empty()) return;
    expert_memory_ = std::make_unique<IpcMemory>(device_, ep);
    groups.expert_memory = expert_memory_.get();
  }

  // `shard`: the group of the host.
  void connect_gradients(RankGroups& groups, Communicator& shard) {
    if (shard.size() == 1 || shard.size() > cuda::kMaxPeerRanks || !why_not_reached(device_, shard).empty()) return;
    gradient_memory_ = std::make_unique<IpcMemory>(device_, shard);
    groups.gradient_memory = groups.value_memory = gradient_memory_.get();
  }

  void abandon() noexcept {
    if (expert_memory_ != nullptr) expert_memory_->abandon();
    if (gradient_memory_ != nullptr) gradient_memory_->abandon();
    for (const std::shared_ptr<NcclHandle>& handle : links_) handle->abort();
    for (const auto& [ranks, handle] : connections_->by_ranks) handle->abort();
  }

 private:
  void check_own_gpu() {
    const std::vector<std::string> gpus = gather_texts(host_, cuda::device_address(device_.index));
    for (size_t r = 1; r < gpus.size(); ++r) {
      const auto other = std::find(gpus.begin(), gpus.begin() + static_cast<std::ptrdiff_t>(r), gpus[r]);
      DT_CHECK_USAGE(other == gpus.begin() + static_cast<std::ptrdiff_t>(r),
                     "ranks {} and {} have one GPU ({}), and each needs one of its own; start fewer ranks, show each "
                     "its own (CUDA_VISIBLE_DEVICES), or use --device cpu",
                     other - gpus.begin(), r, gpus[r]);
    }
  }

  // The handle of a group's ranks; nullptr: there is one.
  std::shared_ptr<NcclHandle> handle_of(const std::vector<int>& ranks) {
    if (ranks.size() == 1) return nullptr;
    const auto known = connections_->by_ranks.find(ranks);
    if (known != connections_->by_ranks.end()) return known->second;
    // Of each group the first rank makes the id; all groups of one kind are introduced at once.
    const bool first = ranks.front() == rank_;
    const std::vector<std::string> ids =
        gather_texts(host_, first ? to_text(NcclHandle::make_unique_id()) : std::string());
    const auto place = std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    auto handle = std::make_shared<NcclHandle>(to_id(ids[ranks.front()]), static_cast<int>(ranks.size()),
                                               static_cast<int>(place), deadline_);
    connections_->by_ranks.emplace(ranks, handle);
    return handle;
  }

  Communicator* add(MeshGroup group, bool links = false) {
    NcclCommunicator::Parts parts;
    parts.name = group_name(group);
    parts.ranks = mesh_.group(group, rank_);
    parts.rank = static_cast<int>(std::find(parts.ranks.begin(), parts.ranks.end(), rank_) - parts.ranks.begin());
    parts.device = device_;
    parts.handle = handle_of(parts.ranks);
    parts.staging = connections_->staging;
    parts.operations = connections_->operations;
    parts.deadline = deadline_;
    if (links) add_links(parts);
    communicators_.push_back(std::make_unique<NcclCommunicator>(std::move(parts)));
    return communicators_.back().get();
  }

  // Both directions between neighbours of a ring. All ranks go through them in one order, so that none waits for a rank
  // that waits for it.
  void add_links(NcclCommunicator::Parts& parts) {
    for (const auto& [from, to] : links_of_ring(static_cast<int>(parts.ranks.size()))) {
      const bool sends = from == parts.rank;
      const std::vector<std::string> ids =
          gather_texts(host_, sends ? to_text(NcclHandle::make_unique_id()) : std::string());
      if (!sends && to != parts.rank) continue;
      NcclCommunicator::Link link{
          std::make_shared<NcclHandle>(to_id(ids[parts.ranks[from]]), 2, sends ? 0 : 1, deadline_), Stream(device_)};
      links_.push_back(link.handle);
      connect(link, sends);
      (sends ? parts.to : parts.from).emplace(sends ? to : from, std::move(link));
    }
  }

  // NCCL connects two ranks, and takes memory for that, when they first exchange something, for which the host waits
  // then: here, where both do it, and before memory is planned.
  void connect(const NcclCommunicator::Link& link, bool sends) {
    char* const memory = connections_->staging->memory.data();
    auto* const stream = static_cast<cudaStream_t>(link.stream.native());
    link.handle->run_group(
        [&] {
          const ncclResult_t status = sends ? nccl().send(memory, 1, ncclUint8, 1, link.handle->get(), stream)
                                            : nccl().recv(memory + 256, 1, ncclUint8, 0, link.handle->get(), stream);
          if (status != ncclInProgress) DT_NCCL_CHECK(status);
        },
        [&](double waited) {
          DT_CHECK(waited < deadline_,
                   "rank {} has waited {:g} s for NCCL to connect it with its neighbour in the pipeline", rank_,
                   deadline_);
        });
    link.stream.synchronize();
  }
  void connect(NcclCommunicator& group) {
    if (group.size() == 1) return;
    ExecutionContext ctx;
    ctx.device = device_;
    ctx.compute = ctx.communication = Stream(device_);
    group.barrier(ctx);
  }

  void watch(double waited) {
    if (waited < deadline_) return;
    const std::string operation = connections_->operations->oldest();
    if (operation.empty()) return;  // it is this rank's own work that takes long
    abandon();
    fail_late("rank {} has waited {:g} s in {}: {}", rank_, waited, operation, kWhyRanksAreLate);
  }

  Communicator& host_;
  Mesh mesh_;
  Device device_;
  double deadline_;
  int rank_;
  std::shared_ptr<DeviceConnections> connections_;
  std::vector<std::shared_ptr<NcclHandle>> links_;
  std::vector<std::unique_ptr<NcclCommunicator>> communicators_;
  std::unique_ptr<IpcMemory> expert_memory_, gradient_memory_;
};

DeviceGroups::DeviceGroups(const HostGroups& host, const Mesh& mesh, Device device, double deadline,
                           ExpertDispatcherName dispatcher, const std::shared_ptr<DeviceConnections>& connections)
    : groups_(host.groups()) {
  if (device.kind == DeviceKind::kCpu || mesh.world() == 1) return;
  nccl_ = std::make_unique<Nccl>(host, mesh, device, deadline, connections);
  groups_ = nccl_->make();
  nccl_->connect_experts(groups_, *host.groups().ep, dispatcher);
  nccl_->connect_gradients(groups_, *host.groups().dense.shard);
}

std::shared_ptr<DeviceConnections> DeviceGroups::connections() const {
  return nccl_ == nullptr ? nullptr : nccl_->connections();
}

DeviceGroups::~DeviceGroups() {
  if (nccl_ != nullptr) set_wait_watch({});
}

void DeviceGroups::abandon() noexcept {
  if (nccl_ != nullptr) nccl_->abandon();
}

#else

class DeviceGroups::Nccl {};

DeviceGroups::DeviceGroups(const HostGroups& host, const Mesh& /*mesh*/, Device device, double /*deadline*/,
                           ExpertDispatcherName /*dispatcher*/,
                           const std::shared_ptr<DeviceConnections>& /*connections*/)
    : groups_(host.groups()) {
  if (device.kind != DeviceKind::kCpu) fail_without_cuda("ranks", device);
}

DeviceGroups::~DeviceGroups() = default;

std::shared_ptr<DeviceConnections> DeviceGroups::connections() const {
  return nullptr;
}

void DeviceGroups::abandon() noexcept {}

#endif

}  // namespace deeptitan

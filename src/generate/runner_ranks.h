#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/host_communicator.h"
#include "comm/mesh.h"
#include "comm/transport.h"
#include "config/model_config.h"
#include "core/execution_context.h"
#include "core/memory_plan.h"
#include "generate/runner_options.h"
#include "model/stage.h"
#include "parallel/device_groups.h"
#include "parallel/host_groups.h"

namespace deeptitan {

/// How `ranks` ranks hold a model together: `pp` ranks its layers, `ep` the experts of each. 0: what the other leaves,
/// and where neither is said, all share out the experts. Throws a usage error that lists the layouts there are where
/// this is none.
Mesh lay_out_ranks(const ModelConfig& config, int ranks, int64_t pp = 0, int64_t ep = 0);

/// The ranks that run one model together, as one of them sees it. The first makes the choices (what is asked, which
/// sequences run, which token comes next) and tells the others what to run.
class RunnerRanks {
 public:
  /// `ranks_of_host` of them share this host's memory; on GPUs each has one of its own. The transport outlives it.
  RunnerRanks(Transport& transport, const Mesh& mesh, double deadline = kDefaultDeadline, int ranks_of_host = 1);
  /// Connects the GPUs of all ranks; to be called by all, before anything is planned. Without it they are CPUs.
  void connect(Device device);
  /// Gives the GPUs' groups up again: to be called by all when the last batch is done, since each waits for the others.
  void disconnect() { device_groups_.reset(); }

  const Mesh& mesh() const { return mesh_; }
  int size() const { return mesh_.world(); }
  int rank() const { return rank_; }
  bool first() const { return rank_ == 0; }
  int ranks_of_host() const { return ranks_of_host_; }
  /// Where this rank computes.
  Device device() const { return device_; }
  /// The layers that lie here.
  Stage stage(int64_t layers) const;
  /// Those that share out the experts of these layers; nullptr: they all lie here.
  Communicator* ep() const { return mesh_.ep > 1 ? exchanged().ep : nullptr; }
  /// One of each stage; nullptr: there is one.
  Communicator* pipeline() const { return exchanged().pipeline; }
  /// All, for what lies in the host's memory.
  Communicator& host() const { return *groups_.groups().host; }
  /// Where this rank has failed: see DeviceGroups.
  void abandon() noexcept {
    if (device_groups_) device_groups_->abandon();
  }
  /// Whether the results of a batch are worked out here: they are the same on all ranks of the last stage.
  bool gives_results() const;

  /// What the first rank tells the others.
  enum class Command : int32_t {
    kPlan,   // a runner of these options
    kLoad,   // take the memory, and load the weights
    kDraw,   // the same with weights drawn from a seed
    kBatch,  // run it
    kEnd,
  };
  /// To be called by the first.
  void tell(Command command, std::span<const int32_t> words = {});
  /// The next command, for which the others wait as long as it takes.
  Command listen(std::vector<int32_t>& words);

  /// Around what all ranks do together. What messages name is the batch, counted from 1.
  void begin_batch() {
    ++state_.in.step;
    in_batch_ = true;
  }
  void end_batch() { in_batch_ = false; }
  /// Whether a batch has failed in its midst: then the ranks cannot go on.
  bool lost() const { return in_batch_; }
  StepState& state() { return state_; }

  /// Waits until all have come here, of which each may have read a model before.
  void wait_for_all();

 private:
  const RankGroups& exchanged() const { return device_groups_ ? device_groups_->groups() : groups_.groups(); }

  Mesh mesh_;
  int rank_;
  int ranks_of_host_;
  Device device_;
  HostGroups groups_;
  std::optional<DeviceGroups> device_groups_;
  HostCommunicator commands_;
  StepState state_ = {};
  bool in_batch_ = false;
};

/// What a rank takes of memory, and what there is for it.
struct RankMemory {
  int64_t planned = 0;
  int64_t available = 0;  // on its host, for all that run there
  int64_t ranks_of_host = 1;
  std::string largest;  // arenas
};
RankMemory memory_of(const MemoryPlan& plan, const RunnerRanks& ranks, Device device);

/// Each rank's, on all of them, when all have planned.
std::vector<RankMemory> gather_memory(RunnerRanks& ranks, const RankMemory& mine);
std::vector<FirstNotFinite> gather_not_finite(const RunnerRanks& ranks, const FirstNotFinite& mine);

/// The first rank that has not enough memory; -1: all have.
int rank_without_memory(const std::vector<RankMemory>& memory);

/// "2 ranks: pp 1 x ep 2; memory of each: 1.2 GB", or of all where they differ.
std::string describe_ranks(const Mesh& mesh, const std::vector<RankMemory>& memory);

/// How ranks tell each other what to plan (all but `ranks` and the device, of which each has its own), and a seed.
std::vector<int32_t> to_words(const RunnerOptions& options);
RunnerOptions options_from_words(std::span<const int32_t> words, RunnerRanks* ranks);
std::vector<int32_t> seed_to_words(uint64_t seed);
uint64_t seed_from_words(std::span<const int32_t> words);

}  // namespace deeptitan

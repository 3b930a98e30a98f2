#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/mesh.h"
#include "comm/transport.h"
#include "config/run_config.h"
#include "parallel/device_groups.h"
#include "parallel/host_groups.h"
#include "parallel/rank_groups.h"

namespace deeptitan {

/// How `config` lays `ranks` ranks out. Throws a usage error where they, the model or the batch do not allow it (see
/// make_mesh and check_mesh), and where it asks for what ranks cannot do.
Mesh mesh_of_run(const RunConfig& config, int ranks);

/// `config` with a global batch: a training.global_batch_size of 0 is a microbatch for each rank that takes sequences.
RunConfig with_global_batch(RunConfig config, const Mesh& mesh);

/// The ranks of a run, as one of them sees it; this process alone where there is no transport.
class RunRanks {
 public:
  /// Throws as mesh_of_run.
  RunRanks(const RunConfig& config, Transport* transport);

  const Mesh& mesh() const { return mesh_; }
  /// Connects the ranks' devices, on all of them at once; the CPU needs nothing of it.
  void connect(Device device);
  /// Where this rank has failed: no other is waited for any more, so that memory can be given back.
  void abandon() noexcept;
  /// What the training engine exchanges over.
  RankGroups groups() const {
    if (device_groups_) return device_groups_->groups();
    return groups_ ? groups_->groups() : RankGroups();
  }
  /// All ranks, for what lies in the host's memory; nullptr: alone.
  Communicator* host() const { return groups().host; }
  bool alone() const { return groups_ == nullptr; }
  int rank() const { return rank_in(host()); }
  /// Whose folder it is, and who speaks.
  bool first() const { return rank() == 0; }
  /// Which of mesh().data_ranks() this is.
  int data_rank() const { return mesh_.data_rank(rank()); }

  /// The sum over all ranks, in their order; `step` is what messages name.
  double sum(double mine, int64_t step) const {
    add_up(std::span(&mine, 1), step);
    return mine;
  }
  /// Whether it is true on any rank; of several at once, in one exchange.
  bool any(bool mine, int64_t step) const { return any(std::array{mine}, step)[0]; }
  template <size_t count>
  std::array<bool, count> any(std::array<bool, count> mine, int64_t step) const {
    std::array<double, count> sums;
    std::copy(mine.begin(), mine.end(), sums.begin());
    add_up(sums, step);
    std::transform(sums.begin(), sums.end(), mine.begin(), [](double sum) { return sum > 0; });
    return mine;
  }

 private:
  // The numbers are then those of all ranks.
  void add_up(std::span<double> numbers, int64_t step) const;

  Mesh mesh_;
  ExpertDispatcherName dispatcher_;
  std::unique_ptr<HostGroups> groups_;
  std::unique_ptr<DeviceGroups> device_groups_;
};

/// Something that all ranks must have alike before the first step.
struct RankFact {
  std::string what;   // "the configuration"
  std::string value;  // any text
};

/// Throws the same error on all ranks, which names the facts that are not alike, and the ranks. All give the same
/// facts.
void check_alike(Communicator& host, const std::vector<RankFact>& facts);

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "comm/host_communicator.h"
#include "core/device_choice.h"
#include "generate/runner_ranks.h"
#include "rank_session.h"

namespace CLI {
class App;
}

namespace deeptitan {

/// What the command line says of the ranks that a model is to be run on.
struct RankArguments {
  int64_t ranks = 0;              // 0: this process, or those of the launcher
  int64_t pipeline_parallel = 0;  // 0: what the other leaves
  int64_t expert_parallel = 0;
  double deadline = kDefaultDeadline;
  const CLI::App* command = nullptr;
};

/// Adds --ranks, --pipeline-parallel, --expert-parallel and --deadline.
void add_rank_options(CLI::App& command, RankArguments& arguments);

/// The ranks that a command runs a model on; none where it runs it in one process. To be made before anything is read
/// that comes once, as standard input does, and before threads are started: see HostRanks.
///
///     ModelRanks ranks(arguments.ranks, arguments.model, arguments.device);
///     if (ranks.follow()) return;
///     ... with RunnerOptions::ranks = ranks.get() on ranks.device()
///     ranks.finish();
class ModelRanks {
 public:
  /// Throws a usage error where the model cannot be laid out so, where ranks have devices that differ, and as
  /// choose_device does of the word for them.
  ModelRanks(const RankArguments& arguments, std::filesystem::path model, const std::string& device);
  ~ModelRanks();
  ModelRanks(const ModelRanks&) = delete;
  ModelRanks& operator=(const ModelRanks&) = delete;

  /// nullptr: this process alone.
  RunnerRanks* get() { return ranks_ ? &*ranks_ : nullptr; }
  /// Where this process computes.
  const DeviceChoice& device() const { return device_; }
  /// Of a rank behind the first: does what that tells it, to the end, and returns true.
  bool follow();
  /// To be called by the first when it is done.
  void finish();

 private:
  void check_ranks_alike(const Mesh& mesh);

  std::filesystem::path model_;
  double deadline_;
  DeviceChoice device_;
  ModelConfig config_;
  std::optional<RankSession> session_;
  std::optional<RunnerRanks> ranks_;
};

}  // namespace deeptitan

#include "train/run_ranks.h"

#include <string_view>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "comm/rank_texts.h"
#include "core/error.h"
#include "parallel/schedule.h"

namespace deeptitan {
namespace {

// The first line in which two texts differ, of both.
std::pair<std::string, std::string> first_difference(std::string_view a, std::string_view b) {
  while (true) {
    const std::string_view a_line = a.substr(0, a.find('\n')), b_line = b.substr(0, b.find('\n'));
    if (a_line != b_line || a_line.size() == a.size() || b_line.size() == b.size()) {
      return {std::string(a_line), std::string(b_line)};
    }
    a.remove_prefix(a_line.size() + 1);
    b.remove_prefix(b_line.size() + 1);
  }
}

// What training.pair_weight_gradients asks of a run.
void check_pairs(const RunConfig& config, int ranks) {
  if (!config.training.pair_weight_gradients) return;
  DT_CHECK_USAGE(ranks == 1, "training.pair_weight_gradients is for runs of one rank, found {}: set it to false",
                 ranks);
  DT_CHECK_USAGE(config.activation_checkpoint.mode == ActivationCheckpointMode::kNone,
                 "training.pair_weight_gradients keeps two microbatches in memory, of which nothing is computed again: "
                 "set activation_checkpoint.mode = \"none\"");
  const int64_t microbatches = config.microbatches_per_step();
  DT_CHECK_USAGE(microbatches % 2 == 0,
                 "training.pair_weight_gradients wants an even number of microbatches a step, found {}: change "
                 "training.global_batch_size or training.local_batch_size",
                 microbatches);
}

}  // namespace

Mesh mesh_of_run(const RunConfig& config, int ranks) {
  check_pairs(config, ranks);
  if (ranks == 1) return make_mesh(config.parallelism, ranks);
  const ModelConfig model = resolve_model_config(config);
  const Mesh mesh = make_mesh(config.parallelism, ranks, &model);
  check_mesh(mesh, config, model);
  if (mesh.pp > 1) {
    // Throws where it has no order for so many microbatches.
    const int64_t microbatches = with_global_batch(config, mesh).microbatches_per_step() / mesh.data_ranks();
    make_schedule(config.parallelism, mesh.pp, static_cast<int>(microbatches));
  }
  return mesh;
}

RunConfig with_global_batch(RunConfig config, const Mesh& mesh) {
  if (config.training.global_batch_size == 0 && mesh.data_ranks() > 1) {
    config.training.global_batch_size = config.training.local_batch_size * mesh.data_ranks();
  }
  return config;
}

RunRanks::RunRanks(const RunConfig& config, Transport* transport)
    : mesh_(mesh_of_run(config, transport == nullptr ? 1 : transport->size())),
      dispatcher_(config.parallelism.expert_dispatcher) {
  if (transport != nullptr) {
    groups_ = std::make_unique<HostGroups>(*transport, mesh_, config.parallelism.deadline_seconds);
  }
}

void RunRanks::connect(Device device) {
  rows_from_kernel_to_kernel(dispatcher_, mesh_, device);  // throws where it is asked for in vain
  if (groups_ && device.kind != DeviceKind::kCpu) {
    device_groups_ = std::make_unique<DeviceGroups>(*groups_, mesh_, device, host()->deadline(), dispatcher_);
  }
}

void RunRanks::abandon() noexcept {
  if (device_groups_) device_groups_->abandon();
}

void RunRanks::add_up(std::span<double> numbers, int64_t step) const {
  if (alone()) return;
  ExecutionContext ctx;
  StepState state;
  state.in.step = step;
  ctx.state = &state;
  host()->all_reduce(ctx, Tensor(numbers.data(), DType::kF64, {static_cast<int64_t>(numbers.size())}));
}

void check_alike(Communicator& host, const std::vector<RankFact>& facts) {
  nlohmann::json mine = nlohmann::json::array();
  for (const RankFact& fact : facts) mine.push_back(fact.value);
  std::vector<nlohmann::json> all;
  for (const std::string& text : gather_texts(host, mine.dump())) all.push_back(nlohmann::json::parse(text));
  std::vector<std::string> problems;
  for (size_t f = 0; f < facts.size(); ++f) {
    std::vector<size_t> others;
    for (size_t r = 1; r < all.size(); ++r) {
      if (all[r].size() != facts.size() || all[r][f] != all[0][f]) others.push_back(r);
    }
    if (others.empty()) continue;
    const auto value = [&](size_t r) { return f < all[r].size() ? all[r][f].get<std::string>() : std::string(); };
    const auto [first, other] = first_difference(value(0), value(others.front()));
    problems.push_back(fmt::format("{} of rank{} {} is not that of rank 0: '{}' on rank 0, '{}' on rank {}",
                                   facts[f].what, others.size() == 1 ? "" : "s", fmt::join(others, ", "), first, other,
                                   others.front()));
  }
  DT_CHECK_USAGE(problems.empty(), "all ranks of a run must be alike; {}", fmt::join(problems, "; "));
}

}  // namespace deeptitan

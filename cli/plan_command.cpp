#include "plan_command.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include "comm/mesh.h"
#include "comm/peer_memory.h"
#include "comm/planned_transport.h"
#include "config/run_config_toml.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/terminal.h"
#include "hub/cached_model.h"
#include "option_checks.h"
#include "parallel/device_groups.h"
#include "parallel/host_groups.h"
#include "parallel/schedule_timeline.h"
#include "planned_model.h"
#include "run_file.h"
#include "train/checkpoint_snapshot.h"
#include "train/memory_advice.h"
#include "train/run_ranks.h"
#include "usage_message.h"

namespace deeptitan {
namespace {

struct PlanArguments {
  std::string config;
  int64_t memory = 0;
  int64_t ranks = 0;
  std::string device;
  std::string timeline;
};

// A run file, the name of a shape, or a model's directory or name.
RunConfig config_of(const std::string& target, std::vector<ConfigOverride> overrides) {
  std::error_code error;
  const std::filesystem::path path = target;
  const bool is_file = std::filesystem::is_regular_file(path, error) && path.filename() != "config.json";
  if (is_file || target.ends_with(".toml")) return load_run_file(target, overrides, MissingModel::kLeft);
  const bool is_shape = is_shape_word(target);
  const std::string model = is_shape ? target : model_directory_of(target).string();
  overrides.insert(overrides.begin(), ConfigOverride{is_shape ? "model.name" : "model.config", model});
  return parse_run_config("[data]\nsynthetic = true\n", target, overrides);
}

// What a rank sends to others in a step, group by group.
void print_exchanges(const TrainingEngine& engine, int64_t microbatches) {
  std::vector<PlannedExchange> exchanges = engine.planned_exchanges();
  const auto bytes = [&](const PlannedExchange& e) { return e.microbatch_bytes * microbatches + e.step_bytes; };
  std::stable_sort(exchanges.begin(), exchanges.end(),
                   [&](const auto& a, const auto& b) { return bytes(a) > bytes(b); });
  fmt::print("sent by a rank in a step of {} microbatch{} a rank, where routing is even:\n", microbatches,
             microbatches == 1 ? "" : "es");
  for (const PlannedExchange& e : exchanges) {
    if (bytes(e) == 0) continue;
    fmt::print("{:>16}  {:>10}  in groups {} of {} ranks\n", bytes(e), format_bytes(bytes(e)), e.group, e.ranks);
  }
}

// Who works when, where there is a pipeline.
void print_pipeline(const PlanArguments& arguments, const RunConfig& config, const Mesh& mesh) {
  DT_CHECK_USAGE(mesh.pp > 1 || arguments.timeline.empty(),
                 "--timeline draws a pipeline, and parallelism.pipeline_parallel_degree = 1 makes none");
  if (mesh.pp == 1) return;
  const Schedule schedule =
      make_schedule(config.parallelism, mesh.pp, static_cast<int>(config.microbatches_per_step() / mesh.data_ranks()));
  fmt::print("{}", timeline_text(schedule, terminal_width(STDOUT_FILENO)));
  if (!arguments.timeline.empty()) write_file(arguments.timeline, timeline_svg(schedule));
}

// What saving beside training takes beside the plan, where it is asked for; without it the run goes on, and waits.
void print_snapshot(const RunConfig& config, const TrainingEngine& engine, int64_t room) {
  if (!wants_snapshot(config)) return;
  const int64_t bytes = CheckpointSnapshot(engine).bytes();
  const bool on_cpu = engine.options().device.kind == DeviceKind::kCpu;
  const bool fits = !on_cpu || bytes <= room;
  fmt::print("{:>16}  {:>10}  more{} to save beside training{}\n", bytes, format_bytes(bytes),
             on_cpu ? "" : " of the host's",
             fits ? "" : ": too much, so that training waits while a checkpoint is written");
}

// On as many ranks as --ranks says, or else as the degrees name.
Mesh planned_mesh(const RunConfig::Parallelism& p, int64_t ranks, const ModelConfig& model) {
  constexpr int64_t kMostRanks = 1 << 20;
  if (ranks == 0) {
    ranks = p.pipeline_parallel_degree * p.expert_parallel_degree * p.data_parallel_replicate_degree;
    if (p.data_parallel_shard_degree > 0 && ranks <= kMostRanks) ranks *= p.data_parallel_shard_degree;
    DT_CHECK_USAGE(ranks <= kMostRanks, "the degrees of [parallelism] name {} ranks; at most {} are planned", ranks,
                   kMostRanks);
  }
  return make_mesh(p, static_cast<int>(ranks), &model);
}

// A rank of a mesh with all that it takes, and nothing to exchange with.
struct PlannedRank {
  PlannedRank(const RunConfig& config, const ModelConfig& model, const Mesh& mesh, int rank)
      : transport(mesh.world(), rank) {
    if (mesh.world() > 1) made.emplace(transport, mesh);
    const Device device = device_to_plan(config.training.device).device;
    if (rows_from_kernel_to_kernel(config.parallelism.expert_dispatcher, mesh, device)) {
      memory.emplace(device, rank_in(made->groups().ep), mesh.ep);
    }
    engine = std::make_unique<TrainingEngine>(model, engine_options(config, bfloat16_is_native(), groups()));
  }
  RankGroups groups() {
    if (!made) return {};
    RankGroups all = made->groups();
    all.expert_memory = memory ? &*memory : nullptr;
    return all;
  }

  PlannedTransport transport;
  std::optional<HostGroups> made;
  std::optional<PlannedMemory> memory;
  std::unique_ptr<TrainingEngine> engine;
};

void run_plan(const PlanArguments& arguments, const std::vector<std::string>& overrides) {
  RunConfig read = config_of(arguments.config, parse_overrides(overrides));
  if (!arguments.device.empty()) read.training.device = arguments.device;
  const auto [model, note] = planned_model(read);
  const Mesh mesh = planned_mesh(read.parallelism, arguments.ranks, model);
  check_mesh(mesh, read, model);
  const RunConfig config = with_global_batch(read, mesh);
  const PlannedDevice device = device_to_plan(config.training.device);
  DT_CHECK_USAGE(device.problem.empty() || arguments.memory > 0,
                 "training.device = {}: {}; a plan for one that is not here needs its memory, as in --memory 80GB",
                 config.training.device, device.problem);
  print_pipeline(arguments, config, mesh);
  // Stages are not alike: the rank that takes most.
  std::unique_ptr<PlannedRank> most;
  for (int stage = 0; stage < mesh.pp; ++stage) {
    auto planned = std::make_unique<PlannedRank>(config, model, mesh, mesh.rank_at({.pp = stage}));
    if (most == nullptr || planned->engine->plan().total() > most->engine->plan().total()) most = std::move(planned);
  }
  const bool made = most->made.has_value();
  const RankGroups groups = most->groups();
  const TrainingEngine& engine = *most->engine;
  MemoryPlan plan = engine.plan();
  const int64_t connections = connection_bytes(mesh, most->transport.rank(), engine.options().device);
  plan.add("NCCL, and sums between ranks", connections);
  if (made) {
    fmt::print("{}; memory of a rank{}:\n", mesh.describe(),
               mesh.pp == 1 ? "" : fmt::format(" (rank {}, which takes most)", most->transport.rank()));
  }
  for (const PlannedArena& arena : plan.arenas)
    fmt::print("{:>16}  {:>10}  {}\n", arena.bytes, format_bytes(arena.bytes), arena.name);
  fmt::print("{:>16}  {:>10}  in all\n", plan.total(), format_bytes(plan.total()));
  const int64_t memory = arguments.memory > 0 ? arguments.memory : available_memory(engine.options().device);
  print_snapshot(config, engine, memory - plan.total());
  for (const MemoryAdvice& a : what_would_save(config, model, engine.plan().total(), groups)) {
    fmt::print("{:>16}  {:>10}  with {}\n", a.bytes + connections, format_bytes(a.bytes + connections), a.change);
  }
  if (made) print_exchanges(engine, config.microbatches_per_step() / mesh.data_ranks());
  if (!note.empty()) fmt::print("{}\n", note);
  if (!device.problem.empty()) {
    fmt::print("{}: planned for a GPU of compute capability 9.0\n", device.problem);
  }
  const char* who = made ? "a rank " : "";
  if (plan.total() <= memory) {
    fmt::print("{}fits into {} bytes ({})\n", who, memory, format_bytes(memory));
    return;
  }
  fmt::print("{}does not fit into {} bytes ({}); nearest changes that would:\n", who, memory, format_bytes(memory));
  const std::vector<MemoryAdvice> advice = configurations_that_fit(config, model, memory - connections, groups);
  for (const MemoryAdvice& a : advice) {
    fmt::print("  {}: {} ({})\n", a.change, a.bytes + connections, format_bytes(a.bytes + connections));
  }
  if (advice.empty())
    fmt::print(
        "  none of microbatch, activation checkpointing, the optimizer's moments and sequence length: the model itself "
        "is too large\n");
  throw CLI::RuntimeError(1);
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plan", "Print the memory of a training run, the largest part first, before anything is allocated");
  auto arguments = std::make_shared<PlanArguments>();
  command
      ->add_option("CONFIG", arguments->config,
                   fmt::format("Run file (TOML), the directory or name of a model, or the name of a shape: {}",
                               fmt::join(model_config_names(), ", ")))
      ->required()
      ->type_name("FILE|MODEL");
  byte_count(command->add_option(
      "--memory", arguments->memory,
      "What the run may use, as in 8000000000, 8GB or 8GiB (default: what the system has available)"));
  whole_number(
      command->add_option("--ranks", arguments->ranks,
                          "Plan one of this many ranks, laid out by [parallelism]: its memory, and what it sends "
                          "to others in a step (default: as many as that names)"),
      "RANKS", 1, 1 << 20);
  device_word(command->add_option(
      "--device", arguments->device,
      "training.device: cpu, cuda, cuda:N or auto; a GPU that is not here needs --memory, and a build with CUDA"));
  command
      ->add_option("--timeline", arguments->timeline,
                   "Draw the pipeline's schedule into this SVG file, beside the one that is printed")
      ->type_name("FILE");
  command->allow_extras();
  command->footer("Exit code 1 where the run does not fit. Keys of the run file can be set as --section.key value.");
  command->callback([command, arguments] { run_plan(*arguments, run_file_overrides(*command)); });
}

}  // namespace deeptitan

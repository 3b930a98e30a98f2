#include "plan_command.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "config/run_config_toml.h"
#include "core/file.h"
#include "hub/cached_model.h"
#include "option_checks.h"
#include "planned_model.h"
#include "run_file.h"
#include "train/memory_advice.h"
#include "train/run_ranks.h"
#include "usage_message.h"

namespace deeptitan {
namespace {

struct PlanArguments {
  std::string config;
  int64_t memory = 0;
};

// A run file, the name of a shape, or a model's directory or name.
RunConfig config_of(const std::string& target, std::vector<ConfigOverride> overrides) {
  std::error_code error;
  const std::filesystem::path path = target;
  const bool exists = std::filesystem::exists(path, error);
  const bool is_file = std::filesystem::is_regular_file(path, error) && path.filename() != "config.json";
  if (is_file || target.ends_with(".toml")) return load_run_file(target, overrides, MissingModel::kLeft);
  const std::vector<std::string> names = model_config_names();
  const bool is_shape = !exists && std::find(names.begin(), names.end(), target) != names.end();
  const std::string directory = is_shape ? target : model_directory_of(target).string();
  // A word that is nothing is a name: the message lists the names.
  const bool is_word = !exists && directory == target && target.find('/') == std::string::npos;
  overrides.insert(overrides.begin(), ConfigOverride{is_word ? "model.name" : "model.config", directory});
  return parse_run_config("[data]\nsynthetic = true\n", target, overrides);
}

void run_plan(const PlanArguments& arguments, const std::vector<std::string>& overrides) {
  const RunConfig config = config_of(arguments.config, parse_overrides(overrides));
  mesh_of_run(config, 1);
  const auto [model, note] = planned_model(config);
  const TrainingEngineOptions options = engine_options(config, bfloat16_is_native());
  const MemoryPlan plan = TrainingEngine(model, options).plan();
  for (const PlannedArena& arena : plan.arenas)
    fmt::print("{:>16}  {:>10}  {}\n", arena.bytes, format_bytes(arena.bytes), arena.name);
  fmt::print("{:>16}  {:>10}  in all\n", plan.total(), format_bytes(plan.total()));
  for (const MemoryAdvice& a : what_would_save(config, model, plan.total())) {
    fmt::print("{:>16}  {:>10}  with {}\n", a.bytes, format_bytes(a.bytes), a.change);
  }
  if (!note.empty()) fmt::print("{}\n", note);
  const int64_t memory = arguments.memory > 0 ? arguments.memory : available_memory(options.device);
  if (plan.total() <= memory) {
    fmt::print("fits into {} bytes ({})\n", memory, format_bytes(memory));
    return;
  }
  fmt::print("does not fit into {} bytes ({}); nearest changes that would:\n", memory, format_bytes(memory));
  const std::vector<MemoryAdvice> advice = configurations_that_fit(config, model, memory);
  for (const MemoryAdvice& a : advice) fmt::print("  {}: {} ({})\n", a.change, a.bytes, format_bytes(a.bytes));
  if (advice.empty())
    fmt::print("  none of microbatch, activation checkpointing and sequence length: the model itself is too large\n");
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
  command->allow_extras();
  command->footer("Exit code 1 where the run does not fit. Keys of the run file can be set as --section.key value.");
  command->callback([command, arguments] { run_plan(*arguments, run_file_overrides(*command)); });
}

}  // namespace deeptitan

#include "model_ranks.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "config/model_config_json.h"
#include "core/error.h"
#include "generate/batch_executor.h"
#include "option_checks.h"
#include "train/run_ranks.h"
#include "version.h"

namespace deeptitan {

namespace {

// "model.safetensors, 17093424 bytes", a line a file: what a rank will read.
std::string weight_files(const std::filesystem::path& model) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.path().extension() != ".safetensors") continue;
    lines.push_back(fmt::format("{}, {} bytes", entry.path().filename().string(), entry.file_size()));
  }
  std::sort(lines.begin(), lines.end());
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace

void add_rank_options(CLI::App& command, RankArguments& arguments) {
  constexpr int64_t kMostRanks = 4096;
  arguments.command = &command;
  whole_number(command.add_option("--ranks", arguments.ranks,
                                  "Run the model on this many processes of this host, each of which holds a part of it "
                                  "(default: this one, or those that mpirun or srun has started)"),
               "RANKS", 1, kMostRanks);
  whole_number(command.add_option("--expert-parallel", arguments.expert_parallel,
                                  "Ranks that share out the experts of each layer (default: all that "
                                  "--pipeline-parallel leaves)"),
               "RANKS", 1, kMostRanks);
  whole_number(command.add_option("--pipeline-parallel", arguments.pipeline_parallel,
                                  "Ranks, or groups of them, that share out the layers (default: what "
                                  "--expert-parallel leaves, else 1)"),
               "RANKS", 1, kMostRanks);
  number_in(command
                .add_option("--deadline", arguments.deadline,
                            "Seconds after which a rank that others wait for is given up, and named")
                ->capture_default_str(),
            0, std::numeric_limits<double>::infinity(), LowerBound::kAbove);
}

ModelRanks::ModelRanks(const RankArguments& arguments, std::filesystem::path model, const std::string& device)
    : model_(std::move(model)), deadline_(arguments.deadline) {
  const std::optional<Launch> launch = find_launch();
  const int64_t asked = launch ? launch->size : std::max<int64_t>(1, arguments.ranks);
  const bool laid_out = arguments.expert_parallel > 1 || arguments.pipeline_parallel > 1;
  if (asked == 1 && !laid_out) {
    device_ = choose_device(device);
    return;
  }
  DT_CHECK_USAGE(asked > 1,
                 "--expert-parallel and --pipeline-parallel lay out many ranks, and this is one process; give --ranks "
                 "too, or start it by mpirun or srun");
  config_ = load_model_config(model_);
  const Mesh mesh =
      lay_out_ranks(config_, static_cast<int>(asked), arguments.pipeline_parallel, arguments.expert_parallel);
  session_.emplace(arguments.ranks, RankSession::Options{.start_here = true,
                                                         .threads_given = arguments.command->count("--threads") > 0});
  // Not before there are as many processes: a copy of one that has looked at its GPUs cannot use them.
  device_ = choose_device(device, session_->host_place());
  ranks_.emplace(*session_->transport(), mesh, arguments.deadline, session_->ranks_of_host());
  // They may be on many hosts; started here they are copies.
  if (launch) check_ranks_alike(mesh);
  ranks_->connect(device_.device);
}

void ModelRanks::check_ranks_alike(const Mesh& mesh) {
  ranks_->wait_for_all();
  check_alike(ranks_->host(), {{"the program", version_line()},
                               {"the layout", mesh.describe()},
                               {"the device", device_.kind()},
                               {"the model's config.json", to_json(config_, "")},
                               {"the list of the model's files", weight_files(model_)}});
}

// Whom a rank has waited for may itself have waited for another, which it then names.
ModelRanks::~ModelRanks() {
  if (ranks_ && ranks_->first() && ranks_->lost()) session_->let_others_speak();
}

bool ModelRanks::follow() {
  if (!ranks_ || ranks_->first()) return false;
  follow_first_rank(*ranks_, config_, model_);
  ranks_->disconnect();
  session_->finish(deadline_);
  return true;
}

void ModelRanks::finish() {
  if (!ranks_) return;
  ranks_->tell(RunnerRanks::Command::kEnd);
  ranks_->disconnect();
  session_->finish(deadline_);
}

}  // namespace deeptitan

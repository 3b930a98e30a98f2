#include "train_command.h"

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include "config/run_config_toml.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "generate/sampler.h"
#include "option_checks.h"
#include "parallel/device_groups.h"
#include "rank_session.h"
#include "run_file.h"
#include "start_ranks.h"
#include "threads_option.h"
#include "train/run_ranks.h"
#include "train/trainer.h"
#include "train/training_engine.h"
#include "usage_message.h"
#include "version.h"

namespace deeptitan {
namespace {

constexpr int kExitInterrupted = 130;

std::atomic<bool> interrupt_requested{false};

void say(const char* text) {
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
}

void request_interrupt(int signal) {
  if (interrupt_requested.exchange(true)) {
    if (signal != SIGINT) return;  // a job system may ask more than once
    say("\nended at once; what was saved before is whole\n");
    ::_exit(kExitInterrupted);
  }
  if (signal == SIGINT) say("\nfinishing the step, then saving; Ctrl-C again ends at once\n");
}

// A run that nohup has made deaf to the terminal's end stays so.
void heed(int signal) {
  if (std::signal(signal, request_interrupt) == SIG_IGN && signal == SIGHUP) std::signal(signal, SIG_IGN);
}

struct TrainArguments {
  std::string config;
  std::string resume;
  bool overwrite = false;
  int64_t replay_step = 0;
  std::string device;
  int64_t threads = 0;
  int64_t ranks = 0;
};

TrainerOptions trainer_options(const TrainArguments& arguments) {
  TrainerOptions options;
  options.interrupt = &interrupt_requested;
  DT_CHECK_USAGE(arguments.resume.empty() || !arguments.overwrite,
                 "--resume and --overwrite contradict each other; give one");
  if (arguments.overwrite) options.resume = ResumeMode::kOverwrite;
  if (arguments.resume == "auto") {
    options.resume = ResumeMode::kAuto;
  } else if (arguments.resume == "latest") {
    options.resume = ResumeMode::kLatest;
  } else if (!arguments.resume.empty()) {
    options.resume = ResumeMode::kStep;
    const char* end = arguments.resume.data() + arguments.resume.size();
    const auto [rest, error] = std::from_chars(arguments.resume.data(), end, options.resume_step);
    DT_CHECK_USAGE(error == std::errc() && rest == end && options.resume_step > 0,
                   "--resume {}: expected auto, latest or a step", arguments.resume);
  }
  if (arguments.replay_step != 0) options.replay_step = arguments.replay_step;
  return options;
}

// What the model would write after metrics.sample_prompt, above the progress line.
void print_sample(TrainingEngine& engine, const Tokenizer& tokenizer, const RunConfig& config, int64_t step) {
  const std::string& prompt = config.metrics.sample_prompt;
  std::vector<int32_t> tokens = tokenizer.encode(prompt);
  if (tokens.empty()) tokens.push_back(tokenizer.eos_token_id().value_or(0));
  std::vector<bool> can_be_sampled(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) can_be_sampled[id] = !tokenizer.token_bytes(id).empty();
  Sampler sampler(
      {.temperature = config.metrics.sample_temperature, .seed = static_cast<uint64_t>(config.training.seed)},
      can_be_sampled);
  StreamingDecoder decoder(tokenizer);
  std::string text = prompt;
  for (int64_t i = 0;
       i < config.metrics.sample_max_new_tokens && static_cast<int64_t>(tokens.size()) < config.training.seq_len; ++i) {
    const int32_t next = sampler.sample(engine.next_token_logits(tokens), tokens, static_cast<int64_t>(tokens.size()));
    if (next == tokenizer.eos_token_id()) break;
    text += decoder.push(next);
    tokens.push_back(next);
  }
  // A terminal that has gone does not end the run.
  std::fputs(fmt::format("--- step {}: {}{}\n---\n", step, text, decoder.flush()).c_str(), stdout);
}

void run_train(const TrainArguments& arguments, const std::vector<std::string>& overrides) {
  RankSession ranks(arguments.ranks);
  RunConfig config = load_run_file(arguments.config, parse_overrides(overrides));
  if (!arguments.device.empty()) config.training.device = arguments.device;
  if (arguments.threads > 0) config.training.threads = arguments.threads;
  TrainerOptions options = trainer_options(arguments);
  if (arguments.ranks > 1 && ranks.transport() == nullptr) {
    const int all = static_cast<int>(arguments.ranks);
    // What is wrong is said once, before any starts.
    const DeviceChoice device = choose_device(config.training.device, {.rank = 0, .ranks = all});
    rows_from_kernel_to_kernel(config.parallelism.expert_dispatcher, mesh_of_run(config, all), device.device);
    throw CLI::RuntimeError(start_ranks(arguments.ranks));
  }
  // One that cannot be used is refused before data is read.
  choose_device(config.training.device, ranks.host_place());
  if (config.training.threads > 0) omp_set_num_threads(static_cast<int>(config.training.threads));
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) heed(signal);
  options.ranks = ranks.transport();
  options.host_place = ranks.host_place();
  if (options.ranks != nullptr) options.program = version_line();  // names the library, which it opens
  options.sample = [&config](TrainingEngine& engine, const Tokenizer& tokenizer, int64_t step) {
    print_sample(engine, tokenizer, config, step);
  };
  const TrainingOutcome outcome = train(config, options);
  ranks.finish(config.parallelism.deadline_seconds);
  if (outcome.interrupted) throw CLI::RuntimeError(kExitInterrupted);
  if (!outcome.model_folder.empty()) fmt::print("model: {}\n", outcome.model_folder);
}

}  // namespace

void add_train_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "Train a model as a run file describes it");
  auto arguments = std::make_shared<TrainArguments>();
  command
      ->add_option("CONFIG", arguments->config, "Run file (TOML); every key, its unit and default is in docs/config.md")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--resume", arguments->resume,
                   "Go on with the run in job.dump_folder: auto (begin where there is none), latest, or the step of a "
                   "checkpoint")
      ->type_name("auto|latest|STEP");
  command->add_flag("--overwrite", arguments->overwrite, "Replace the run in job.dump_folder");
  whole_number(command->add_option(
                   "--replay-step", arguments->replay_step,
                   "Repeat this step from the checkpoint before it, look at every op's output, and write nothing"),
               "STEP", 1);
  device_word(command->add_option("--device", arguments->device, "training.device: cpu, cuda, cuda:N or auto"));
  whole_number(command->add_option("--threads", arguments->threads, "In place of training.threads"), "THREADS", 1,
               kMostThreads);
  whole_number(command->add_option("--ranks", arguments->ranks,
                                   "Start this many processes on this host, by mpirun, and train over them as "
                                   "[parallelism] lays them out (default: this one, or those of the launcher)"),
               "RANKS", 1, 4096);
  command->allow_extras();
  command->footer("Any key of the run file can be set here as --section.key value, as in --training.steps 100.");
  command->callback([command, arguments] { run_train(*arguments, run_file_overrides(*command)); });
}

}  // namespace deeptitan

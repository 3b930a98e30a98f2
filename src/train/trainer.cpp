#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <numbers>

#include <nlohmann/json.hpp>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/read_tensor.h"
#include "checkpoint/run_checkpoints.h"
#include "comm/rank_texts.h"
#include "config/run_config_toml.h"
#include "core/clock.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "data/packed_sampler.h"
#include "data/synthetic_source.h"
#include "data/token_dataset.h"
#include "data/tokenizer_encoder.h"
#include "data/validation_batches.h"
#include "kernels/cpu/peak/peak.h"
#include "model/model_cost.h"
#include "ops/linear.h"
#include "train/freeze.h"
#include "train/learning_rate.h"
#include "train/memory_advice.h"
#include "train/model_to_train.h"
#include "train/rank_batches.h"
#include "train/run_folder.h"
#include "train/run_ranks.h"
#include "train/run_report.h"
#include "train/run_tokenizer.h"
#include "train/training_checkpoint.h"
#include "train/validation.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

// On a GPU the host queues a step before it looks at the one before, so that the device never waits for it. On the CPU
// a step is over when it has been queued.
int report_lag_of(Device device) {
  return device.kind == DeviceKind::kCuda ? 1 : 0;
}

class Trainer {
 public:
  Trainer(const RunConfig& config, const TrainerOptions& options)
      : config_(config),
        options_(options),
        folder_(config.job.dump_folder),
        schedule_(config),
        ranks_(config, options.ranks),
        exported_{.dtype = config.checkpoint.export_dtype == ExportDtype::kFloat32 ? DType::kF32 : DType::kBF16} {}

  TrainingOutcome run();

 private:
  void join_ranks();
  void find_start();
  void find_start_of_all();
  void open_data_of_all();
  void open_data();
  void build_engine();
  void replay();
  // A step that the host has queued and has no result of yet.
  struct QueuedStep {
    int64_t step = 0;
    int64_t tokens = 0;  // of the run so far
    double begin = 0;    // seconds
  };
  void queue_step(int64_t step);
  StepMetrics metrics_of(StepResult result);
  StepBatches& batches_of(int64_t step);
  void draw_step(int64_t step);
  void compute_step(int64_t step);
  StepResult last_result();
  [[noreturn]] void stop_without_folder();
  [[noreturn]] void stop_not_finite(int64_t step, const StepResult& result);
  void save();
  void begin_report();
  void train_steps();
  void say(const std::string& text) {
    if (report_) report_->message(text);
  }
  void export_final_model();
  bool interrupted() const { return options_.interrupt != nullptr && options_.interrupt->load(); }

  RunConfig config_;
  TrainerOptions options_;
  RunFolder folder_;
  LearningRateSchedule schedule_;
  RunRanks ranks_;
  ModelConfig model_config_;
  std::optional<CheckpointEntry> start_;
  std::vector<DamagedCheckpoint> damaged_;        // that come after start_
  std::shared_ptr<const ModelDirectory> loaded_;  // where the weights came from
  TrainingProgress progress_;
  bool stopped_ = false;  // by an interrupt, on all ranks
  std::optional<Tokenizer> tokenizer_;
  std::optional<TextEncoder> encoder_;
  ModelExport exported_;
  std::vector<TokenDataset> datasets_;
  std::vector<ValidationBatches> validation_;
  std::unique_ptr<BatchSource> source_;
  std::unique_ptr<TrainingEngine> engine_;
  std::vector<StepBatches> batches_;  // of as many steps as are queued at once
  std::deque<QueuedStep> queued_;     // the oldest first
  double last_report_ = 0;            // seconds
  std::optional<RunReport> report_;   // of the first rank
};

void Trainer::join_ranks() {
  config_ = with_global_batch(config_, ranks_.mesh());
  if (ranks_.alone()) return;
  check_alike(*ranks_.host(),
              {{"the version", options_.program},
               {"the configuration", to_toml(config_)},
               {"the device", device_name(choose_device(config_.training.device).device)},
               {"the arithmetic of the chip", bfloat16_is_native() ? "native bf16" : "no native bf16"}});
}

// The first rank looks, which may mean to read whole checkpoints, and the others begin where it does.
void Trainer::find_start_of_all() {
  if (!ranks_.alone()) ranks_.host()->set_deadline(config_.parallelism.data_deadline_seconds);
  const std::string step = on_first_rank(ranks_.host(), [&] {
    find_start();
    return start_ ? std::to_string(start_->step) : std::string();
  });
  if (ranks_.first() || step.empty()) return;
  start_ = CheckpointEntry{std::stoll(step), folder_.checkpoints() / checkpoint_name(std::stoll(step))};
  DT_CHECK_USAGE(fs::exists(start_->path),
                 "rank {} does not see {}, from which rank 0 goes on; all ranks need the same job.dump_folder, on a "
                 "file system that they share",
                 ranks_.rank(), start_->path.string());
}

// Which checkpoint to begin from, and whether the folder may be used at all.
void Trainer::find_start() {
  const ResumeMode mode = options_.replay_step ? ResumeMode::kAuto : options_.resume;
  const std::string folder = folder_.root().string();
  if (!options_.replay_step) {
    folder_.lock();
    folder_.check_inputs(config_);
  }
  if (mode == ResumeMode::kNew) {
    DT_CHECK_USAGE(!folder_.holds_a_run() && list_checkpoints(folder_.checkpoints()).empty(),
                   "{} holds a run already; go on with it (--resume auto), replace it (--overwrite), or name another "
                   "folder (--job.dump_folder)",
                   folder);
    folder_.check_free(/*resuming=*/false);
    return;
  }
  if (mode == ResumeMode::kOverwrite) return folder_.check_clearable();
  std::vector<CheckpointEntry> checkpoints = list_checkpoints(folder_.checkpoints());
  if (options_.replay_step) {
    DT_CHECK_USAGE(*options_.replay_step >= 1, "--replay-step {}: steps count from 1", *options_.replay_step);
    DT_CHECK_USAGE(!checkpoints.empty() || folder_.holds_a_run(), "{} holds no run to replay a step of", folder);
    std::erase_if(checkpoints, [&](const CheckpointEntry& c) { return c.step >= *options_.replay_step; });
  } else {
    folder_.check_free(/*resuming=*/!checkpoints.empty());
  }
  if (mode == ResumeMode::kStep) {
    std::erase_if(checkpoints, [&](const CheckpointEntry& c) { return c.step > options_.resume_step; });
    DT_CHECK_USAGE(!checkpoints.empty() && checkpoints.back().step == options_.resume_step,
                   "{} has no checkpoint of step {}", folder_.checkpoints().string(), options_.resume_step);
  }
  DT_CHECK_USAGE(!checkpoints.empty() || mode == ResumeMode::kAuto, "{} holds no complete checkpoint to resume from",
                 folder_.checkpoints().string());
  if (checkpoints.empty()) return;
  GoodCheckpoint good = last_good_checkpoint(checkpoints);
  damaged_ = std::move(good.damaged);
  start_ = std::move(good.checkpoint);
  if (damaged_.empty()) return;
  for (const DamagedCheckpoint& d : damaged_)
    log_warning(fmt::format("checkpoint of step {}: {}", d.checkpoint.step, d.reason));
  DT_CHECK(start_,
           "no checkpoint in {} is whole; begin anew with --overwrite, or in another folder (--job.dump_folder)",
           folder_.checkpoints().string());
  DT_CHECK(mode == ResumeMode::kAuto,
           "the checkpoint of step {} is damaged; the last good one is {}: go on with --resume {}",
           damaged_.front().checkpoint.step, start_->path.string(), start_->step);
  log_warning(fmt::format("going on from the last good one, step {}", start_->step));
}

void Trainer::open_data() {
  if (config_.data.synthetic) {
    source_ =
        std::make_unique<SyntheticSource>(model_config_.vocab_size, config_.training.seq_len, config_.training.seed);
    return;
  }
  tokenizer_ = load_tokenizer(config_);
  encoder_ = make_text_encoder(*tokenizer_, load_chat_template(config_, *tokenizer_), config_.model.template_variables);
  // A checkpoint with its own tokenizer may stop at more tokens than that names.
  std::vector<int64_t>& ends = model_config_.eos_token_ids;
  const bool own_tokenizer = !config_.model.initial_checkpoint.empty() && config_.model.tokenizer.empty();
  if (!own_tokenizer) ends.clear();
  if (std::find(ends.begin(), ends.end(), encoder_->eos_token_id) == ends.end()) {
    ends.insert(ends.begin(), encoder_->eos_token_id);
  }
  exported_.tokenizer = &*tokenizer_;
  const fs::path generation = fs::path(config_.model.initial_checkpoint) / "generation_config.json";
  if (own_tokenizer && fs::exists(generation)) exported_.generation_config = read_file(generation);
  model_config_.bos_token_id = tokenizer_->bos_token_id().value_or(-1);
  model_config_.pad_token_id = tokenizer_->pad_token_id().value_or(-1);
  datasets_ = open_datasets(config_, *encoder_, model_config_.vocab_size);
  source_ = std::make_unique<PackedSampler>(datasets_, config_.training.seq_len, config_.training.seed, *encoder_,
                                            RunLength{config_.training.steps, config_.sequences_per_step()});
  for (const TokenDataset& dataset : datasets_) {
    validation_.emplace_back(dataset, config_.training.seq_len, config_.validation.max_tokens, *encoder_);
  }
}

// One rank tokenises what is not in the cache yet, the others wait.
void Trainer::open_data_of_all() {
  if (ranks_.alone()) return open_data();
  on_first_rank(ranks_.host(), [&] {
    open_data();
    return std::string();
  });
  if (!ranks_.first()) open_data();
  std::string fingerprints;
  for (const TokenDataset& dataset : datasets_) {
    fingerprints += fmt::format("{} {}\n", dataset.name(), dataset.fingerprint());
  }
  check_alike(*ranks_.host(), {{"the data", fingerprints}});
  ranks_.host()->set_deadline(config_.parallelism.deadline_seconds);
}

void Trainer::build_engine() {
  TrainingEngineOptions options = engine_options(config_, bfloat16_is_native(), ranks_.groups());
  options.report_lag = options_.report_lag.value_or(report_lag_of(options.device));
  options.halt_not_finite = config_.training.loss_not_finite == LossNotFinite::kStop;
  engine_ = std::make_unique<TrainingEngine>(model_config_, options);
  const int64_t memory = available_memory(engine_->options().device) / options_.ranks_of_host;
  // All look before any takes.
  ranks_.any(false, 0);
  check_fits(config_, model_config_, engine_->plan(), memory, ranks_.groups());
#ifdef DT_CUDA
  log_info(fmt::format("on {}", choose_device(config_.training.device).description));
#endif
  engine_->allocate();
  if (start_) {
    loaded_ = load_checkpoint(start_->path, *engine_);
    progress_ = read_progress(start_->path);
    source_->restore(progress_.data);
  } else if (!config_.model.initial_checkpoint.empty()) {
    check_model_directory(config_.model.initial_checkpoint);
    loaded_ = std::make_shared<const ModelDirectory>(config_.model.initial_checkpoint);
    if (holds_float8(*loaded_)) {
      log_info(
          fmt::format("the fp8 weights of {} ({}) are widened to fp32: {} of memory", loaded_->path().string(),
                      format_bytes(loaded_->file_bytes()),
                      format_bytes(sizeof(float) * static_cast<uint64_t>(count_parameters(model_config_).parameters))));
    }
    engine_->load(loaded_);
  } else {
    engine_->initialize(config_.training.seed);
  }
  exported_.carried_from = loaded_.get();
  // What "auto" came to is what resumes, on whatever chip.
  config_.training.dtype = engine_->options().compute == DType::kBF16 ? TrainingDtype::kBf16 : TrainingDtype::kFp32;
  progress_.config = to_toml(config_);
  batches_.resize(static_cast<size_t>(engine_->options().report_lag) + 1);
}

StepBatches& Trainer::batches_of(int64_t step) {
  return batches_[static_cast<size_t>(step) % batches_.size()];
}

void Trainer::draw_step(int64_t step) {
  const int ranks = ranks_.mesh().data_ranks();
  deeptitan::draw_step(*source_, config_.microbatches_per_step() / ranks, config_.training.local_batch_size,
                       ranks_.data_rank(), ranks, batches_of(step));
}

void Trainer::compute_step(int64_t step) {
  const auto& [mine, targets] = batches_of(step);
  engine_->begin_step(step, schedule_.at(step), targets, static_cast<int64_t>(mine.size()));
  for (const PackedBatch& batch : mine) engine_->add_microbatch(batch);
  engine_->end_step();
}

// Of the step that was queued last; those of steps before it are let go.
StepResult Trainer::last_result() {
  StepResult result;
  while (std::optional<StepResult> report = engine_->remaining_report()) result = std::move(*report);
  return result;
}

void Trainer::queue_step(int64_t step) {
  const double begin = monotonic_seconds();
  draw_step(step);
  compute_step(step);
  progress_.step = step;
  progress_.tokens += config_.tokens_per_step();
  progress_.data = source_->position();
  queued_.push_back({step, progress_.tokens, begin});
}

// Of the oldest step without a result, which has come.
StepMetrics Trainer::metrics_of(StepResult result) {
  const QueuedStep queued = queued_.front();
  queued_.pop_front();
  const int64_t step = queued.step;
  if (!result.finite && config_.training.loss_not_finite == LossNotFinite::kStop) stop_not_finite(step, result);
  const double now = monotonic_seconds();
  StepMetrics metrics;
  metrics.step = step;
  metrics.tokens = queued.tokens;
  metrics.loss = result.loss;
  metrics.learning_rate = schedule_.at(step);
  metrics.gradient_norm = result.gradient_norm;
  metrics.row_overflows = result.row_overflows;
  metrics.step_seconds = now - std::max(queued.begin, last_report_);
  last_report_ = now;
  metrics.tokens_per_second = static_cast<double>(config_.tokens_per_step()) / metrics.step_seconds;
  metrics.skipped = !result.finite;
  if (engine_->model().config().num_nextn_predict_layers > 0 && config_.training.mtp_loss_weight > 0) {
    metrics.mtp_loss = result.mtp_loss;
  }
  metrics.moe_layers = std::move(result.moe_layers);
  return metrics;
}

void Trainer::stop_not_finite(int64_t step, const StepResult& result) {
  std::string first = "no op's output, only their sum";
  engine_->set_check_finite(true);
  try {
    compute_step(step);
    last_result();
  } catch (const Error& error) {
    first = error.what();
  }
  const auto checkpoint = last_good_checkpoint(list_checkpoints(folder_.checkpoints())).checkpoint;
  fail(
      "step {}: loss {}, gradient norm {}: not finite. First: {}; {}; repeat the step with --replay-step {}, or go on "
      "without such steps with --training.loss_not_finite skip",
      step, result.loss, result.gradient_norm, first,
      checkpoint ? "the last good checkpoint is " + checkpoint->path.string()
                 : std::string("there is no checkpoint yet"),
      step);
}

// What was in the folder is gone; the run is not.
void Trainer::stop_without_folder() {
  last_result();  // what is saved is whole
  if (ranks_.first()) {
    folder_ = RunFolder(folder_.root());
    folder_.claim(/*resuming=*/false);
    write_file(folder_.config(), progress_.config);
  }
  progress_.metrics = {};
  save();
  fail(
      "{} was removed or replaced while the run wrote into it. Step {} was saved in a new one; go on with --resume "
      "auto",
      folder_.root().string(), progress_.step);
}

void Trainer::save() {
  try {
    save_checkpoint(folder_.checkpoints(), progress_, *engine_, exported_, config_.checkpoint.keep_latest_k);
  } catch (const Error&) {
    if (ranks_.alone() && !folder_.in_place()) stop_without_folder();
    throw;
  }
}

void Trainer::export_final_model() {
  write_directory(folder_.model(), progress_.step, ranks_.host(),
                  [&](const fs::path& path) { return export_model(path, *engine_, exported_); });
}

// The loss that metrics.jsonl has for a step; nothing where it was not logged.
std::optional<double> recorded_loss(const fs::path& metrics, int64_t step) {
  std::ifstream file(metrics);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = try_read_json(line).value_or(nlohmann::json());
    if (!json.is_object() || !json.contains("step") || json.at("step") != step) continue;
    if (json.contains("loss") && json.at("loss").is_number()) return json.at("loss").get<double>();
  }
  return std::nullopt;
}

void Trainer::replay() {
  const int64_t wanted = *options_.replay_step;
  log_info(fmt::format("replaying step {} from {}", wanted,
                       start_ ? "step " + std::to_string(start_->step) : std::string("the start")));
  StepResult result;
  for (int64_t step = progress_.step + 1; step <= wanted; ++step) {
    engine_->set_check_finite(step == wanted);
    draw_step(step);
    compute_step(step);
    result = last_result();
  }
  engine_->set_check_finite(false);
  const std::optional<double> recorded = recorded_loss(folder_.metrics(), wanted);
  fmt::print("step {}: loss {:.17g}, gradient norm {:.17g}; every op's output is finite{}\n", wanted, result.loss,
             result.gradient_norm,
             !recorded                  ? ""
             : *recorded == result.loss ? "; equal to the recorded loss, bit for bit"
                                        : fmt::format("; the recorded loss is {:.17g}: NOT equal", *recorded));
}

// The folder is the first rank's, and so is what the run says.
void Trainer::begin_report() {
  const bool bf16 = engine_->options().compute == DType::kBF16;
  const bool on_cpu = engine_->options().device.kind == DeviceKind::kCpu;
  const auto type = bf16 ? cpu::OperandType::kBfloat16 : cpu::OperandType::kFloat;
  const double peak = ranks_.sum(on_cpu ? cpu::measure_matrix_peak(type, 0.3) : 0.0, progress_.step);
  on_first_rank(ranks_.host(), [&] {
    if (options_.resume == ResumeMode::kOverwrite) folder_.clear();
    folder_.claim(start_.has_value());
    for (const DamagedCheckpoint& d : damaged_) {
      log_warning(fmt::format("the damaged checkpoint of step {} is kept as {}", d.checkpoint.step,
                              set_aside(d.checkpoint.path).string()));
    }
    write_file(folder_.config(), progress_.config);
    report_.emplace(config_, folder_, progress_.step, progress_.metrics,
                    training_flops_per_token(model_config_, config_.training.seq_len), peak, !ranks_.alone());
    return std::string();
  });
  const ModelSize size = count_parameters(model_config_);
  say(fmt::format("{:.1f} M parameters, {:.1f} M active; {} tokens a step; {} in {}; {} planned{}{}",
                  size.parameters / 1e6, size.active_parameters / 1e6, config_.tokens_per_step(),
                  bf16 ? "bf16" : "fp32", folder_.root().string(), format_bytes(engine_->plan().total()),
                  ranks_.alone() ? "" : " a rank",
                  on_cpu ? fmt::format("; matrix peak {:.0f} GFLOP/s", peak / 1e9) : ""));
  if (!ranks_.alone()) say(ranks_.mesh().describe());
  if (const int64_t frozen = count_frozen(engine_->model().parameters()); frozen > 0) {
    say(fmt::format("{} parameters are frozen", frozen));
  }
  if (start_ && progress_.step >= config_.training.steps) {
    say(fmt::format("the run is finished: all {} steps were done before; raise training.steps to go on",
                    config_.training.steps));
  } else if (start_) {
    say(fmt::format("resumed at step {}", progress_.step));
  }
}

void Trainer::train_steps() {
  double mean_seconds = 0;
  for (int64_t step = progress_.step + 1; step <= config_.training.steps && !stopped_; ++step) {
    const double start = monotonic_seconds();
    const bool last = step == config_.training.steps;
    const auto due = [&](int64_t every) { return every > 0 && (last || step % every == 0); };
    const bool validates = due(config_.validation.freq);
    const bool samples = options_.sample && tokenizer_ && due(config_.metrics.sample_freq);
    const bool saves = last || due(config_.checkpoint.interval);
    queue_step(step);
    if (ranks_.any(ranks_.first() && !folder_.in_place(), step)) stop_without_folder();
    const bool stops = ranks_.any(interrupted(), step);
    // What looks at the model between two steps waits for all that is queued.
    const bool waits = validates || samples || saves || stops;
    while (std::optional<StepResult> result = waits ? engine_->remaining_report() : engine_->due_report()) {
      StepMetrics metrics = metrics_of(std::move(*result));
      if (validates && metrics.step == step)
        validate(validation_, config_.training.local_batch_size, ranks_, *engine_, metrics);
      mean_seconds =
          mean_seconds == 0 ? monotonic_seconds() - start : 0.95 * mean_seconds + 0.05 * (monotonic_seconds() - start);
      const bool logged = metrics.step == config_.training.steps || metrics.validation || metrics.skipped ||
                          metrics.row_overflows > 0 || metrics.step % config_.metrics.log_freq == 0;
      if (report_ && logged) {
        report_->show(metrics, mean_seconds * static_cast<double>(config_.training.steps - metrics.step));
      }
    }
    if (samples) {
      if (report_) report_->finish();
      options_.sample(*engine_, *tokenizer_, step);
    }
    stopped_ = stops && queued_.empty();
    if (saves || stopped_) {
      if (report_) progress_.metrics = report_->synced();
      save();
    }
  }
  if (report_) report_->finish();
}

TrainingOutcome Trainer::run() {
  join_ranks();
  find_start_of_all();
  model_config_ = model_to_train(config_);
  if (start_) {
    const RunConfig saved = parse_run_config(read_progress(start_->path).config, start_->path.string());
    if (config_.training.dtype == TrainingDtype::kAuto) config_.training.dtype = saved.training.dtype;
    for (const ConfigDifference& d : check_resumable(saved, config_)) {
      log_info(fmt::format("resuming with {} = {} (it was {})", d.key, d.after, d.before));
    }
  }
  open_data_of_all();
  build_engine();
  if (options_.replay_step) {
    replay();
    return {.step = *options_.replay_step, .interrupted = false, .model_folder = ""};
  }
  begin_report();
  train_steps();
  TrainingOutcome outcome{
      .step = progress_.step, .interrupted = stopped_ && progress_.step < config_.training.steps, .model_folder = ""};
  if (outcome.interrupted) {
    say(fmt::format("interrupted: step {} is saved; go on with --resume auto", progress_.step));
    return outcome;
  }
  export_final_model();
  if (report_) report_->draw_loss_curve();
  outcome.model_folder = folder_.model().string();
  return outcome;
}

}  // namespace

TrainingOutcome train(const RunConfig& config, const TrainerOptions& options) {
  return Trainer(config, options).run();
}

}  // namespace deeptitan

#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <deque>
#include <memory>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/run_checkpoints.h"
#include "comm/rank_texts.h"
#include "config/run_config_toml.h"
#include "core/clock.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "kernels/cpu/peak/peak.h"
#include "model/model_cost.h"
#include "ops/linear.h"
#include "train/checkpoint_saver.h"
#include "train/checkpoint_snapshot.h"
#include "train/freeze.h"
#include "train/learning_rate.h"
#include "train/memory_advice.h"
#include "train/model_to_train.h"
#include "train/rank_batches.h"
#include "train/run_data.h"
#include "train/run_folder.h"
#include "train/run_ranks.h"
#include "train/run_report.h"
#include "train/run_start.h"
#include "train/run_weights.h"
#include "train/training_checkpoint.h"
#include "train/training_engine.h"
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
        device_(choose_device(config.training.device, options.host_place)),
        schedule_(config),
        ranks_(config, options.ranks),
        exported_{.dtype = config.checkpoint.export_dtype == ExportDtype::kFloat32 ? DType::kF32 : DType::kBF16} {}

  TrainingOutcome run();

 private:
  TrainingOutcome run_all();
  void join_ranks();
  void build_engine();
  void load();
  void plan_snapshot(int64_t room);
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
  template <typename Body>
  void in_folder(const Body& body);
  void save(bool beside);
  void begin_report();
  void train_steps();
  void say(const std::string& text) {
    if (report_) report_->message(text);
  }
  void export_final_model();
  TrainingOutcome finish_run();
  bool interrupted() const { return options_.interrupt != nullptr && options_.interrupt->load(); }

  RunConfig config_;
  TrainerOptions options_;
  RunFolder folder_;
  DeviceChoice device_;
  LearningRateSchedule schedule_;
  RunRanks ranks_;
  ModelConfig model_config_;
  RunStart start_;
  std::shared_ptr<const ModelDirectory> loaded_;  // where the weights came from
  TrainingProgress progress_;
  bool stopped_ = false;  // by an interrupt, on all ranks
  ModelExport exported_;
  RunData data_;
  std::unique_ptr<TrainingEngine> engine_;
  std::vector<StepBatches> batches_;              // of as many steps as are queued at once
  std::deque<QueuedStep> queued_;                 // the oldest first
  double last_report_ = 0;                        // seconds
  std::optional<RunReport> report_;               // of the first rank
  std::unique_ptr<CheckpointSnapshot> snapshot_;  // where checkpoints are written beside training
  std::unique_ptr<CheckpointSaver> saver_;
};

void Trainer::join_ranks() {
  config_ = with_global_batch(config_, ranks_.mesh());
  if (ranks_.alone()) return;
  check_alike(*ranks_.host(),
              {{"the version", options_.program},
               {"the configuration", to_toml(config_)},
               {"the device", device_.kind()},
               {"the arithmetic of the chip", bfloat16_is_native() ? "native bf16" : "no native bf16"}});
  ranks_.connect(device_.device);
}

void Trainer::build_engine() {
  TrainingEngineOptions options = engine_options(config_, bfloat16_is_native(), ranks_.groups());
  options.device = device_.device;
  options.report_lag = options_.report_lag.value_or(report_lag_of(options.device));
  options.halt_not_finite = config_.training.loss_not_finite == LossNotFinite::kStop;
  engine_ = std::make_unique<TrainingEngine>(model_config_, options);
  const bool on_cpu = device_.device.kind == DeviceKind::kCpu;
  const int64_t memory = available_memory(device_.device) / (on_cpu ? options_.host_place.ranks : 1);
  // All look before any takes.
  ranks_.any(false, 0);
  check_fits(config_, model_config_, *engine_, memory, ranks_.groups());
  if (built_with_cuda()) log_info(fmt::format("on {}", device_.description));
  if (!options_.replay_step && wants_snapshot(config_)) plan_snapshot(memory);
  engine_->allocate();
  if (snapshot_) {
    snapshot_->allocate();
    saver_ = std::make_unique<CheckpointSaver>(*engine_, *snapshot_);
  }
}

void Trainer::load() {
  loaded_ = load_run_weights(config_, model_config_, start_.checkpoint, *engine_);
  if (start_.checkpoint) {
    progress_ = read_progress(start_.checkpoint->path);
    data_.source->restore(progress_.data);
  }
  exported_.carried_from = loaded_.get();
  // What "auto" came to is what resumes, on whatever chip.
  config_.training.dtype = engine_->options().compute == DType::kBF16 ? TrainingDtype::kBf16 : TrainingDtype::kFp32;
  progress_.config = to_toml(config_);
  batches_.resize(static_cast<size_t>(engine_->options().report_lag) + 1);
}

// `memory` is what this rank's host or device has for the run.
void Trainer::plan_snapshot(int64_t memory) {
  auto planned = std::make_unique<CheckpointSnapshot>(*engine_);
  const bool on_cpu = engine_->options().device.kind == DeviceKind::kCpu;
  const int64_t room =
      on_cpu ? memory - engine_->plan().total() : available_memory(Device{}) / options_.host_place.ranks;
  if (ranks_.any(planned->bytes() > room, 0)) {
    log_info(fmt::format(
        "checkpoint.saving: to write beside training takes {} of memory more and {} are available; training "
        "waits while a checkpoint is written",
        format_bytes(planned->bytes()), format_bytes(std::max<int64_t>(0, room))));
    return;
  }
  snapshot_ = std::move(planned);
}

StepBatches& Trainer::batches_of(int64_t step) {
  return batches_[static_cast<size_t>(step) % batches_.size()];
}

void Trainer::draw_step(int64_t step) {
  const int ranks = ranks_.mesh().data_ranks();
  deeptitan::draw_step(*data_.source, config_.microbatches_per_step() / ranks, config_.training.local_batch_size,
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
  progress_.data = data_.source->position();
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

// All ranks come here together; the one that finds the op speaks at once, while others may wait for it. So the
// checkpoint is named before that, and as it lies there: resuming verifies it.
void Trainer::stop_not_finite(int64_t step, const StepResult& result) {
  if (saver_) saver_->wait();
  const std::string last = on_first_rank(ranks_.host(), [&] {
    const auto checkpoint = latest_checkpoint(folder_.checkpoints());
    return checkpoint ? "the last checkpoint is " + checkpoint->path.string()
                      : std::string("there is no checkpoint yet");
  });
  std::string first = "no op's output, only their sum";
  engine_->set_check_finite(true);
  try {
    compute_step(step);
    last_result();
  } catch (const Error& error) {
    first = error.what();
  }
  fail(
      "step {}: loss {}, gradient norm {}: not finite. First: {}; {}; repeat the step with --replay-step {}, or go on "
      "without such steps with --training.loss_not_finite skip",
      step, result.loss, result.gradient_norm, first, last, step);
}

// What was in the folder is gone; the run is not.
void Trainer::stop_without_folder() {
  if (saver_) saver_->give_up();
  // What is saved is whole, and its metrics are those of its step.
  while (std::optional<StepResult> result = engine_->remaining_report()) {
    const StepMetrics metrics = metrics_of(std::move(*result));
    if (report_) report_->show(metrics, 0);
  }
  progress_.metrics = {};
  if (ranks_.first()) {
    const bool held = folder_.held();
    if (held && report_) progress_.metrics = report_->synced();
    if (!held) folder_ = RunFolder(folder_.root());
    folder_.claim(/*resuming=*/held);
    write_file(folder_.config(), progress_.config);
  }
  save(/*beside=*/false);
  fail(
      "{} or checkpoints in it was removed or replaced while the run wrote into it. Step {} was saved anew; go on with "
      "--resume auto",
      folder_.root().string(), progress_.step);
}

// What writes a checkpoint, and fails where somebody has taken the folder away.
template <typename Body>
void Trainer::in_folder(const Body& body) {
  try {
    body();
  } catch (const Error&) {
    if (ranks_.alone() && !folder_.in_place()) stop_without_folder();
    throw;
  }
}

// `beside`: steps follow, which need not wait.
void Trainer::save(bool beside) {
  in_folder([&] {
    const fs::path checkpoints = folder_.checkpoints();
    const int64_t keep = config_.checkpoint.keep_latest_k;
    if (saver_) saver_->wait();
    if (saver_ && beside) return saver_->begin(checkpoints, progress_, exported_, keep);
    save_checkpoint(checkpoints, progress_, *engine_, exported_, keep);
  });
}

void Trainer::export_final_model() {
  write_directory(folder_.model(), progress_.step, ranks_.host(),
                  [&](const fs::path& path) { return export_model(path, *engine_, exported_); });
}

void Trainer::replay() {
  const int64_t wanted = *options_.replay_step;
  log_info(
      fmt::format("replaying step {} from {}", wanted,
                  start_.checkpoint ? "step " + std::to_string(start_.checkpoint->step) : std::string("the start")));
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
    folder_.claim(start_.checkpoint.has_value());
    for (const DamagedCheckpoint& d : start_.damaged) {
      log_warning(fmt::format("the damaged checkpoint of step {} is kept as {}", d.checkpoint.step,
                              set_aside(d.checkpoint.path).string()));
    }
    write_file(folder_.config(), progress_.config);
    report_.emplace(config_, folder_, progress_.step, progress_.metrics,
                    training_flops_per_token(model_config_, config_.training.seq_len), peak, !ranks_.alone());
    return std::string();
  });
  const ModelSize size = count_parameters(model_config_);
  say(fmt::format(
      "{:.1f} M parameters, {:.1f} M active; {} tokens a step; {} in {}; {} planned{}{}", size.parameters / 1e6,
      size.active_parameters / 1e6, config_.tokens_per_step(), bf16 ? "bf16" : "fp32", folder_.root().string(),
      format_bytes(engine_->plan().total() + (on_cpu && snapshot_ ? snapshot_->bytes() : 0)),
      ranks_.alone() ? "" : " a rank", on_cpu ? fmt::format("; matrix peak {:.0f} GFLOP/s", peak / 1e9) : ""));
  if (!ranks_.alone()) say(ranks_.mesh().describe());
  if (const int64_t frozen = count_frozen(engine_->model().parameters()); frozen > 0) {
    say(fmt::format("{} parameters are frozen", frozen));
  }
  if (start_.checkpoint && progress_.step >= config_.training.steps) {
    say(fmt::format("the run is finished: all {} steps were done before; raise training.steps to go on",
                    config_.training.steps));
  } else if (start_.checkpoint) {
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
    const bool samples = options_.sample && data_.tokenizer && due(config_.metrics.sample_freq);
    const bool saves = last || due(config_.checkpoint.interval);
    queue_step(step);
    const auto [lost, stops, saving] =
        ranks_.any(std::array{ranks_.first() && !folder_.in_place(), interrupted(), saver_ && saver_->at_work()}, step);
    if (lost) stop_without_folder();
    if (saver_ && !saving) in_folder([&] { saver_->advance(); });
    // What looks at the model between two steps waits for all that is queued.
    const bool waits = validates || samples || saves || stops;
    while (std::optional<StepResult> result = waits ? engine_->remaining_report() : engine_->due_report()) {
      StepMetrics metrics = metrics_of(std::move(*result));
      if (validates && metrics.step == step) {
        const auto end_saving = [&] {
          if (saver_) saver_->wait();
        };
        validate(data_.validation, config_.training.local_batch_size, ranks_, *engine_, metrics, end_saving);
      }
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
      options_.sample(*engine_, *data_.tokenizer, step);
    }
    stopped_ = stops && queued_.empty();
    if (saves || stopped_) {
      if (report_) progress_.metrics = report_->synced();
      save(/*beside=*/!last && !stopped_);
    }
  }
  if (report_) report_->finish();
}

// What has failed here leaves others' messages behind, for which the device would wait as its memory is given back.
TrainingOutcome Trainer::run() {
  try {
    return run_all();
  } catch (...) {
    ranks_.abandon();
    throw;
  }
}

TrainingOutcome Trainer::run_all() {
  join_ranks();
  start_ = find_start_of_all(config_, options_, folder_, ranks_);
  model_config_ = model_to_train(config_);
  if (start_.checkpoint) {
    const RunConfig saved =
        parse_run_config(read_progress(start_.checkpoint->path).config, start_.checkpoint->path.string());
    if (config_.training.dtype == TrainingDtype::kAuto) config_.training.dtype = saved.training.dtype;
    for (const ConfigDifference& d : check_resumable(saved, config_)) {
      log_info(fmt::format("resuming with {} = {} (it was {})", d.key, d.after, d.before));
    }
  }
  open_data_of_all(config_, ranks_, data_, model_config_, exported_);
  build_engine();
  load();
  if (options_.replay_step) {
    replay();
    return {.step = *options_.replay_step, .interrupted = false, .model_folder = ""};
  }
  begin_report();
  train_steps();
  TrainingOutcome outcome = finish_run();
  ranks_.any(false, progress_.step);  // none leaves before all have ended, or the one that has not is named
  return outcome;
}

TrainingOutcome Trainer::finish_run() {
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

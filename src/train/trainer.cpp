#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <numbers>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/run_checkpoints.h"
#include "config/model_config_json.h"
#include "config/run_config_toml.h"
#include "core/clock.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "core/terminal.h"
#include "data/packed_sampler.h"
#include "data/synthetic_source.h"
#include "data/token_dataset.h"
#include "data/tokenizer_encoder.h"
#include "data/validation_batches.h"
#include "kernels/cpu/peak/peak.h"
#include "model/model_cost.h"
#include "train/freeze.h"
#include "train/learning_rate.h"
#include "train/loss_curve.h"
#include "train/memory_advice.h"
#include "train/metrics_writer.h"
#include "train/model_to_train.h"
#include "train/progress_line.h"
#include "train/run_folder.h"
#include "train/tensorboard_writer.h"
#include "train/training_checkpoint.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr int kWidestChart = 160;

// On a GPU the host queues a step before it looks at the one before, so that the device never waits for it. On the CPU
// a step is over when it has been queued.
int report_lag_of(Device device) {
  return device.kind == DeviceKind::kCuda ? 1 : 0;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

class Trainer {
 public:
  Trainer(const RunConfig& config, const TrainerOptions& options)
      : config_(config),
        options_(options),
        folder_(config.job.dump_folder),
        schedule_(config),
        exported_{.dtype = config.checkpoint.export_dtype == ExportDtype::kFloat32 ? DType::kF32 : DType::kBF16} {}

  TrainingOutcome run();

 private:
  void find_start();
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
  std::vector<PackedBatch>& batches_of(int64_t step);
  void draw_step(int64_t step);
  void compute_step(int64_t step);
  StepResult last_result();
  void validate(StepMetrics& metrics);
  [[noreturn]] void stop_without_folder();
  [[noreturn]] void stop_not_finite(int64_t step, const StepResult& result);
  void save();
  void draw_loss_curve(ProgressLine& progress) const;
  void export_final_model();
  bool interrupted() const { return options_.interrupt != nullptr && options_.interrupt->load(); }

  RunConfig config_;
  TrainerOptions options_;
  RunFolder folder_;
  LearningRateSchedule schedule_;
  ModelConfig model_config_;
  std::optional<CheckpointEntry> start_;
  std::vector<DamagedCheckpoint> damaged_;        // that come after start_
  std::shared_ptr<const ModelDirectory> loaded_;  // where the weights came from
  TrainingProgress progress_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<TextEncoder> encoder_;
  ModelExport exported_;
  std::vector<TokenDataset> datasets_;
  std::vector<ValidationBatches> validation_;
  std::unique_ptr<BatchSource> source_;
  std::unique_ptr<TrainingEngine> engine_;
  std::vector<std::vector<PackedBatch>> batches_;  // of as many steps as are queued at once
  std::deque<QueuedStep> queued_;                  // the oldest first
  double last_report_ = 0;                         // seconds
  PackedBatch validation_batch_;
};

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

// The tokenizer's files, with model.chat_template in the place of their own template.
Tokenizer load_tokenizer(const RunConfig& config) {
  const auto& model = config.model;
  Tokenizer tokenizer = Tokenizer::load(model.tokenizer.empty() ? model.initial_checkpoint : model.tokenizer);
  if (model.chat_template.empty()) return tokenizer;
  DT_CHECK_USAGE(
      fs::is_regular_file(model.chat_template),
      "model.chat_template = {}: no such file; name a Jinja file, or leave the key out to use the tokenizer's "
      "own template",
      model.chat_template);
  return Tokenizer::from_json(tokenizer.tokenizer_json(), tokenizer.tokenizer_config_json(),
                              read_file(model.chat_template));
}

// The template that conversations are rendered with; none where there are none.
std::shared_ptr<const ChatTemplate> load_chat_template(const RunConfig& config, const Tokenizer& tokenizer) {
  if (!config.data.has_chats() && config.model.chat_template.empty()) return nullptr;
  DT_CHECK_USAGE(ChatTemplate::in_texts(tokenizer.chat_template_jinja(), tokenizer.tokenizer_config_json()),
                 "a source has format = \"chat\", but the tokenizer has no chat template to render conversations with; "
                 "set model.chat_template to a Jinja file");
  return std::make_shared<const ChatTemplate>(
      ChatTemplate::from_texts(tokenizer.chat_template_jinja(), tokenizer.tokenizer_config_json()));
}

void Trainer::open_data() {
  if (config_.data.synthetic) {
    source_ =
        std::make_unique<SyntheticSource>(model_config_.vocab_size, config_.training.seq_len, config_.training.seed);
    return;
  }
  tokenizer_ = load_tokenizer(config_);
  encoder_ = make_text_encoder(*tokenizer_, load_chat_template(config_, *tokenizer_));
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

void Trainer::build_engine() {
  TrainingEngineOptions options = engine_options(config_, bfloat16_is_native());
  options.report_lag = options_.report_lag.value_or(report_lag_of(options.device));
  options.halt_not_finite = config_.training.loss_not_finite == LossNotFinite::kStop;
  engine_ = std::make_unique<TrainingEngine>(model_config_, options);
  check_fits(config_, model_config_, engine_->plan(), available_memory(engine_->options().device));
#ifdef DT_CUDA
  log_info(fmt::format("on {}", choose_device(config_.training.device).description));
#endif
  engine_->allocate();
  if (start_) {
    loaded_ = load_checkpoint(start_->path, *engine_);
    progress_ = read_progress(start_->path);
    source_->restore(progress_.data);
  } else if (!config_.model.initial_checkpoint.empty()) {
    loaded_ = std::make_shared<const ModelDirectory>(config_.model.initial_checkpoint);
    const fs::path config_file = loaded_->path() / "config.json";
    if (fs::exists(config_file) && load_model_config(config_file).fp8_weight_block_rows > 0) {
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
  for (auto& batches : batches_) batches.resize(config_.microbatches_per_step());
}

std::vector<PackedBatch>& Trainer::batches_of(int64_t step) {
  return batches_[static_cast<size_t>(step) % batches_.size()];
}

void Trainer::draw_step(int64_t step) {
  for (PackedBatch& batch : batches_of(step)) source_->next_batch(config_.training.local_batch_size, &batch);
}

void Trainer::compute_step(int64_t step) {
  const std::vector<PackedBatch>& batches = batches_of(step);
  int64_t targets = 0;
  for (const PackedBatch& batch : batches) targets += batch.target_count;
  engine_->begin_step(step, schedule_.at(step), targets, static_cast<int64_t>(batches.size()));
  for (const PackedBatch& batch : batches) engine_->add_microbatch(batch);
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
  folder_ = RunFolder(folder_.root());
  folder_.claim(/*resuming=*/false);
  write_file(folder_.config(), progress_.config);
  progress_.metrics = {};
  save();
  fail(
      "{} was removed or replaced while the run wrote into it. Step {} was saved in a new one; go on with --resume "
      "auto",
      folder_.root().string(), progress_.step);
}

void Trainer::validate(StepMetrics& metrics) {
  ValidationMetrics all{.name = "all"};
  double loss_sum = 0;
  int64_t targets = 0;
  int64_t bytes = 0;
  for (ValidationBatches& batches : validation_) {
    double source_loss = 0;
    int64_t source_targets = 0;
    int64_t source_bytes = 0;
    batches.rewind();
    while (batches.next_batch(config_.training.local_batch_size, &validation_batch_)) {
      source_targets += validation_batch_.target_count;
      source_bytes += validation_batch_.target_bytes;
      source_loss += engine_->evaluate(validation_batch_);
    }
    if (source_targets == 0) continue;
    const auto bits = [](double nats, int64_t text_bytes) {
      return nats / std::numbers::ln2 / static_cast<double>(std::max<int64_t>(1, text_bytes));
    };
    metrics.validation_sources.push_back(
        {batches.name(), source_loss / static_cast<double>(source_targets), bits(source_loss, source_bytes)});
    loss_sum += source_loss;
    targets += source_targets;
    bytes += source_bytes;
    all.bits_per_byte = bits(loss_sum, bytes);
  }
  if (targets == 0) return;
  all.loss = loss_sum / static_cast<double>(targets);
  metrics.validation = all;
}

void Trainer::save() {
  try {
    save_checkpoint(folder_.checkpoints(), progress_, *engine_, exported_, config_.checkpoint.keep_latest_k);
  } catch (const Error&) {
    if (!folder_.in_place()) stop_without_folder();
    throw;
  }
}

void Trainer::export_final_model() {
  make_way(folder_.model());
  AtomicDirectory directory(folder_.model());
  std::map<std::string, FileDigest> digests = export_model(directory.path(), *engine_, exported_);
  write_manifest(directory.path(), progress_.step, std::move(digests));
  directory.commit();
}

void Trainer::draw_loss_curve(ProgressLine& progress) const {
  const LossCurve curve = read_loss_curve(folder_.metrics());
  const std::string terminal = render_loss_terminal(curve, std::min(terminal_width(STDOUT_FILENO), kWidestChart), 18);
  if (!terminal.empty()) progress.message(terminal);
  write_file(folder_.loss_svg(), render_loss_svg(curve, config_.job.description.empty() ? config_.job.dump_folder
                                                                                        : config_.job.description));
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

TrainingOutcome Trainer::run() {
  find_start();
  model_config_ = model_to_train(config_);
  if (start_) {
    const RunConfig saved = parse_run_config(read_progress(start_->path).config, start_->path.string());
    if (config_.training.dtype == TrainingDtype::kAuto) config_.training.dtype = saved.training.dtype;
    for (const ConfigDifference& d : check_resumable(saved, config_)) {
      log_info(fmt::format("resuming with {} = {} (it was {})", d.key, d.after, d.before));
    }
  }
  open_data();
  build_engine();
  if (options_.replay_step) {
    replay();
    return {.step = *options_.replay_step, .interrupted = false, .model_folder = ""};
  }
  if (options_.resume == ResumeMode::kOverwrite) folder_.clear();
  folder_.claim(start_.has_value());
  for (const DamagedCheckpoint& d : damaged_) {
    log_warning(fmt::format("the damaged checkpoint of step {} is kept as {}", d.checkpoint.step,
                            set_aside(d.checkpoint.path).string()));
  }
  write_file(folder_.config(), progress_.config);

  MetricsWriter metrics_file(folder_.metrics(), progress_.step, progress_.metrics);
  std::optional<TensorboardWriter> tensorboard;
  if (config_.metrics.enable_tensorboard) {
    tensorboard.emplace(folder_.tensorboard(), progress_.step + 1, wall_time());
    folder_.record(tensorboard->path());
  }
  const bool bf16 = engine_->options().compute == DType::kBF16;
  const bool on_cpu = engine_->options().device.kind == DeviceKind::kCpu;
  const auto type = bf16 ? cpu::OperandType::kBfloat16 : cpu::OperandType::kFloat;
  const double peak = on_cpu ? cpu::measure_matrix_peak(type, 0.3) : 0.0;
  const ModelSize size = count_parameters(model_config_);
  ProgressLine progress(config_.training.steps, training_flops_per_token(model_config_, config_.training.seq_len),
                        peak);
  progress.message(fmt::format("{:.1f} M parameters, {:.1f} M active; {} tokens a step; {} in {}; {} planned{}",
                               size.parameters / 1e6, size.active_parameters / 1e6, config_.tokens_per_step(),
                               bf16 ? "bf16" : "fp32", folder_.root().string(), format_bytes(engine_->plan().total()),
                               on_cpu ? fmt::format("; matrix peak {:.0f} GFLOP/s", peak / 1e9) : ""));
  if (const int64_t frozen = count_frozen(engine_->model().parameters()); frozen > 0) {
    progress.message(fmt::format("{} parameters are frozen", frozen));
  }
  if (start_ && progress_.step >= config_.training.steps) {
    progress.message(fmt::format("the run is finished: all {} steps were done before; raise training.steps to go on",
                                 config_.training.steps));
  } else if (start_) {
    progress.message(fmt::format("resumed at step {}", progress_.step));
  }

  double mean_seconds = 0;
  bool stopped = false;
  for (int64_t step = progress_.step + 1; step <= config_.training.steps && !stopped; ++step) {
    const double start = monotonic_seconds();
    const bool last = step == config_.training.steps;
    const auto due = [&](int64_t every) { return every > 0 && (last || step % every == 0); };
    const bool validates = due(config_.validation.freq);
    const bool samples = options_.sample && tokenizer_ && due(config_.metrics.sample_freq);
    const bool saves = last || due(config_.checkpoint.interval);
    queue_step(step);
    if (!folder_.in_place()) stop_without_folder();
    // What looks at the model between two steps waits for all that is queued.
    const bool waits = validates || samples || saves || interrupted();
    while (std::optional<StepResult> result = waits ? engine_->remaining_report() : engine_->due_report()) {
      StepMetrics metrics = metrics_of(std::move(*result));
      if (validates && metrics.step == step) validate(metrics);
      mean_seconds =
          mean_seconds == 0 ? monotonic_seconds() - start : 0.95 * mean_seconds + 0.05 * (monotonic_seconds() - start);
      if (metrics.step == config_.training.steps || metrics.validation || metrics.skipped ||
          metrics.row_overflows > 0 || metrics.step % config_.metrics.log_freq == 0) {
        metrics_file.write(metrics);
        if (tensorboard) tensorboard->write(metrics.step, wall_time(), scalars_of(metrics));
        progress.show(metrics, mean_seconds * static_cast<double>(config_.training.steps - metrics.step));
      }
    }
    if (samples) {
      progress.finish();
      options_.sample(*engine_, *tokenizer_, step);
    }
    stopped = queued_.empty() && interrupted();
    if (saves || stopped) {
      progress_.metrics = metrics_file.synced();
      save();
    }
  }
  progress.finish();
  TrainingOutcome outcome{
      .step = progress_.step, .interrupted = stopped && progress_.step < config_.training.steps, .model_folder = ""};
  if (outcome.interrupted) {
    progress.message(fmt::format("interrupted: step {} is saved; go on with --resume auto", progress_.step));
    return outcome;
  }
  export_final_model();
  draw_loss_curve(progress);
  outcome.model_folder = folder_.model().string();
  return outcome;
}

}  // namespace

TrainingOutcome train(const RunConfig& config, const TrainerOptions& options) {
  return Trainer(config, options).run();
}

}  // namespace deeptitan

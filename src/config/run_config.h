#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_config.h"

namespace deeptitan {

/// In what the matrix products of training are computed. kAuto: bf16 where the chip multiplies it natively, else fp32.
enum class TrainingDtype { kAuto, kBf16, kFp32 };

/// What a loss or gradient that is not finite does: end the run, or leave the step out and go on.
enum class LossNotFinite { kStop, kSkip };

/// What turns gradients into new weights.
enum class OptimizerName { kAdamW };

/// Element type of what the optimizer keeps of each weight.
enum class MomentsDtype { kFp32, kBf16 };

/// How the learning rate falls at the end of a run.
enum class DecayType { kConstant, kLinear, kCosine, kSqrt };

/// What is computed again in backward rather than kept: nothing, what costs no product, or the inside of each decoder
/// layer.
enum class ActivationCheckpointMode { kNone, kCheap, kLayer };

/// In what order the stages of a pipeline run their microbatches: see parallel/schedule.h. One that has several stages
/// a rank says so in RunConfig::Parallelism::stages_per_rank.
enum class PipelineScheduleName { kGPipe, k1F1B, kInterleaved1F1B, kZeroBubbleH1 };

/// Element type of the weights in an exported model directory.
enum class ExportDtype { kFloat32, kBfloat16 };

/// Whether training goes on while a checkpoint is written, from a copy of what it holds, or waits.
enum class ExpertDispatcherName { kAuto, kOnDevice, kAllToAll };
enum class CheckpointSaving { kBeside, kBlocking };

/// What the files of a source hold: documents, which may lie in JSON; conversations, of which the assistant's turns are
/// learnt; or text that is read as it stands, whatever it looks like.
enum class SourceFormat { kText, kChat, kPlain };

/// One text that is trained on: an element of data.sources.
struct TextSource {
  std::string path;     // a text file, a JSON file, or a directory of them
  std::string name;     // under which its validation loss is reported; the path's last part where empty
  double weight = 1.0;  // share of the training sequences, relative to the other sources
  SourceFormat format = SourceFormat::kText;
  std::vector<std::string> include = {};  // directory: patterns of the files that are read; none = all
  std::vector<std::string> exclude = {};  // directory: patterns of files that are not
  double max_passes = 0;                  // how often the run may read it at most; 0 = as often as its weight asks
  std::string text_field = "text";        // JSON: the field that holds the document
  std::string document_separator;  // text files: what stands between two documents; empty = a file is one document
  std::string messages_field = "messages";  // chat: the field that holds the list of messages
  std::string validation_path;              // its validation text; empty = the last validation.fraction of the source

  bool operator==(const TextSource&) const = default;

  /// `name`, or the last part of `path` without its extension.
  std::string display_name() const;
};

/// A training run as its TOML file describes it. docs/config.md documents every key; src/config/config_keys.cpp is the
/// table that the parser, the command line, that page and the echo of a run's configuration share.
struct RunConfig {
  struct Job {
    std::string dump_folder = "runs/demo";
    std::string description;
    bool operator==(const Job&) const = default;
  } job;

  struct Metrics {
    int64_t log_freq = 1;
    bool enable_tensorboard = true;
    int64_t sample_freq = 0;
    std::string sample_prompt;
    int64_t sample_max_new_tokens = 64;
    double sample_temperature = 0.8;
    bool operator==(const Metrics&) const = default;
  } metrics;

  struct Model {
    std::string name;
    std::string config;
    std::string shape = "{}";  // [model.shape] as a JSON object: fields of config.json that replace the shape's own
    std::string initial_checkpoint;
    std::string tokenizer;
    std::string chat_template;  // a Jinja file that takes the place of the tokenizer's own; empty = that one
    std::string template_variables = "{}";  // [model.template_variables] as a JSON object
    bool operator==(const Model&) const = default;
  } model;

  struct Optimizer {
    OptimizerName name = OptimizerName::kAdamW;
    double lr = 3e-4;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    MomentsDtype moments_dtype = MomentsDtype::kFp32;
    bool operator==(const Optimizer&) const = default;
  } optimizer;

  struct LrScheduler {
    int64_t warmup_steps = 0;
    DecayType decay_type = DecayType::kCosine;
    double decay_ratio = 1.0;
    double lr_min = 0.0;
    bool operator==(const LrScheduler&) const = default;
  } lr_scheduler;

  struct Training {
    int64_t seed = 0;
    int64_t steps = 1000;
    int64_t seq_len = 256;
    int64_t local_batch_size = 8;
    int64_t global_batch_size = 0;  // 0 = local_batch_size
    int64_t threads = 0;            // 0 = all cores
    double max_norm = 1.0;
    TrainingDtype dtype = TrainingDtype::kAuto;
    std::string device = "auto";
    LossNotFinite loss_not_finite = LossNotFinite::kStop;
    double mtp_loss_weight = 0.3;
    double router_bias_update_speed = 0.001;
    double aux_loss_weight = 0.0001;
    std::vector<std::string> freeze;  // patterns of parameter names
    bool pair_weight_gradients = false;
    bool operator==(const Training&) const = default;
  } training;

  /// How the run is laid out over ranks: comm/mesh.h.
  struct Parallelism {
    int64_t pipeline_parallel_degree = 1;
    int64_t expert_parallel_degree = 1;
    int64_t data_parallel_shard_degree = -1;  // -1 = what is left of the ranks
    int64_t data_parallel_replicate_degree = 1;
    PipelineScheduleName pipeline_parallel_schedule = PipelineScheduleName::k1F1B;
    int64_t pipeline_parallel_stages_per_rank = 2;  // of the interleaved schedule
    int64_t zero_stage = 1;
    ExpertDispatcherName expert_dispatcher = ExpertDispatcherName::kAuto;
    double expert_room = 0;  // in means; 0 = the most that may come
    double deadline_seconds = 300;
    double data_deadline_seconds = 86400;

    /// Stages that the schedule has on each rank.
    int64_t stages_per_rank() const {
      return pipeline_parallel_schedule == PipelineScheduleName::kInterleaved1F1B ? pipeline_parallel_stages_per_rank
                                                                                  : 1;
    }
    bool operator==(const Parallelism&) const = default;
  } parallelism;

  struct Checkpoint {
    int64_t interval = 500;
    int64_t keep_latest_k = 2;
    ExportDtype export_dtype = ExportDtype::kFloat32;
    CheckpointSaving saving = CheckpointSaving::kBeside;
    bool operator==(const Checkpoint&) const = default;
  } checkpoint;

  struct ActivationCheckpoint {
    ActivationCheckpointMode mode = ActivationCheckpointMode::kNone;
    bool operator==(const ActivationCheckpoint&) const = default;
  } activation_checkpoint;

  struct Data {
    std::vector<TextSource> sources;
    bool synthetic = false;
    std::string cache_folder = "runs/cache";
    bool operator==(const Data&) const = default;

    bool has_chats() const;
  } data;

  struct Validation {
    int64_t freq = 100;
    double fraction = 0.05;
    int64_t max_tokens = 0;
    bool operator==(const Validation&) const = default;
  } validation;

  bool operator==(const RunConfig&) const = default;

  /// Sequences of one optimizer step on all ranks: training.global_batch_size, or training.local_batch_size where that
  /// is 0, which more ranks replace by a microbatch for each before a run starts.
  int64_t sequences_per_step() const {
    return training.global_batch_size > 0 ? training.global_batch_size : training.local_batch_size;
  }

  /// Microbatches of one optimizer step.
  int64_t microbatches_per_step() const { return sequences_per_step() / training.local_batch_size; }

  /// Tokens of one optimizer step.
  int64_t tokens_per_step() const { return sequences_per_step() * training.seq_len; }
};

/// Throws a usage error that begins with `where` unless the keys fit each other: a global batch of whole microbatches,
/// one model, a text or synthetic data but not both, a tokenizer where there is text.
void validate(const RunConfig& config, std::string_view where);

/// The shape that `config` trains: model.name, model.config or that of model.initial_checkpoint, with [model.shape]
/// applied. Throws a usage error where it is unknown, does not fit, or is shorter than training.seq_len.
ModelConfig resolve_model_config(const RunConfig& config);

/// A key whose value is not the same in two configurations, as TOML values.
struct ConfigDifference {
  std::string key;
  std::string before;
  std::string after;
  bool allowed_on_resume;  // the run goes on with the new value, and says so
};

/// Every key in which `after` differs from `before`, in the table's order.
std::vector<ConfigDifference> differences(const RunConfig& before, const RunConfig& after);

/// What resuming a run of configuration `saved` under `current` changes. Throws a usage error that lists the keys which
/// differ and may not: more steps, another learning rate and what only reports may; what the model or data is may not.
std::vector<ConfigDifference> check_resumable(const RunConfig& saved, const RunConfig& current);

}  // namespace deeptitan

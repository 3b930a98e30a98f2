#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_directory.h"
#include "config/run_config.h"
#include "core/arena.h"
#include "core/captured_graph.h"
#include "core/execution_context.h"
#include "core/memory_plan.h"
#include "core/upload_ring.h"
#include "data/packed_batch.h"
#include "model/deepseek/deepseek_model.h"
#include "parallel/bucket_shards.h"
#include "parallel/gradient_shards.h"
#include "parallel/rank_groups.h"
#include "parallel/schedule.h"
#include "train/begun_parts.h"
#include "train/optimizer.h"
#include "train/stage_runner.h"
#include "train/step_report.h"

namespace deeptitan {

struct TrainingEngineOptions {
  Device device = {};
  DType compute = DType::kF32;  // f32 or bf16
  int64_t seq_len = 0;
  int64_t sequences = 0;  // of one microbatch
  Recomputation recomputation = Recomputation::kNothing;
  bool next_token_prediction = true;
  double auxiliary_weight = 0.0001;
  double mtp_weight = 0.3;
  double router_bias_update_speed = 0.001;
  double max_norm = 1.0;  // of the gradient; 0: no clipping
  double weight_decay = 0.1;
  RunConfig::Optimizer optimizer = {};  // its name and its own settings
  std::vector<std::string> freeze;      // see freeze_parameters
  /// The pipeline's stages, in the schedule's order. One stage: microbatch by microbatch.
  Schedule schedule = one_f_one_b_schedule(1, 1);
  MakeDispatcher make_dispatcher = make_local_dispatcher;  // of each layer with experts
  int report_lag = 0;                 // steps that are queued before the host looks at one's result: 0 or 1
  bool halt_not_finite = false;       // a step that is not finite halts those queued behind it
  int zero_stage = 1;                 // of many ranks: see GradientShards
  double expert_room = 0;             // rows that a rank's experts have room for, in means; 0: the most that may come
  int64_t bucket_elements = 1 << 24;  // of what is reduced and updated at once
  /// The ranks that one step is shared out to; this one alone unless they are given. The stages of a pipeline are given
  /// the same batches, and all ranks have the same reports.
  RankGroups groups = {};
  bool graphs = true;  // on a GPU the parts of a step are captured when they run for the second time
};

/// What a rank sends to the others of a group in a step, as the plan counts it.
struct PlannedExchange {
  std::string group;  // "ep"
  int ranks = 1;
  int64_t microbatch_bytes = 0;  // for each microbatch
  int64_t step_bytes = 0;        // once a step
};

/// A model with its gradients and optimizer, and the memory of all of it. A step is begin_step, add_microbatch for each
/// microbatch, end_step; what the host wants to know of it is read by due_report, `report_lag` steps later. Nothing
/// here reads files or knows about time.
///
/// With groups of ranks each has one, and all make the same calls in the same order, each with its own sequences; what
/// they are told of a step is the same.
///
/// Where a dispatcher may overflow, the batches of steps without a report are kept. A step that overflowed has changed
/// nothing, nor have those queued behind it; when its report is read it is run again with the experts in slices that
/// fit, and the others behind it.
class TrainingEngine {
 public:
  /// Plans: runs a whole step without its kernels, which checks every shape and counts every byte. Allocates nothing.
  /// Frozen parameters have no gradient, no moments and no fp32 master; their values, and a frozen router's bias, never
  /// change.
  TrainingEngine(const ModelConfig& config, const TrainingEngineOptions& options);
  ~TrainingEngine();

  const MemoryPlan& plan() const { return plan_; }
  /// Of every group of more than one rank; rows of experts as if routing were even.
  const std::vector<PlannedExchange>& planned_exchanges() const { return exchanges_; }
  const TrainingEngineOptions& options() const { return options_; }
  DeepseekModel& model() { return model_; }
  const DeepseekModel& model() const { return model_; }
  int64_t tokens_per_microbatch() const { return options_.seq_len * options_.sequences; }

  /// Takes the planned memory from the system.
  void allocate();

  /// Draws a new model.
  void initialize(uint64_t seed);
  /// Takes the values of a Hugging Face directory, or of another source. See ParameterList::load.
  void load(std::shared_ptr<const ModelDirectory> directory);
  void load(std::shared_ptr<const ParameterSource> source);
  /// To be called after the parameters' values have changed from outside.
  void refresh();

  /// Step number (from 1), its learning rate, the loss-bearing tokens of all microbatches of all ranks, and the
  /// microbatches of each.
  void begin_step(int64_t step, double learning_rate, int64_t target_tokens, int64_t microbatches);
  void add_microbatch(const PackedBatch& batch);
  /// Clipping, AdamW, the routers' bias, and the refresh of what is prepared from the weights. Where the loss or the
  /// gradient is not finite, the weights, the optimizer and the bias stay as they were. Waits for nothing.
  void end_step();
  /// Masters that other ranks update may lie here rounded to what layers read. From here on, until the next step, they
  /// are the others' own: before they are written to files. Collective over all ranks; waits until they have come.
  void complete_values();
  /// The report of the oldest step that has none yet and is `report_lag` steps behind; nullopt where there is none.
  std::optional<StepResult> due_report();
  /// The same for the last steps of a run, which no step follows.
  std::optional<StepResult> remaining_report();
  /// end_step and its report, without lag.
  StepResult finish_step();

  /// Steps that were applied since the model was new: what AdamW's bias correction counts. Skipped steps are not.
  int64_t updates();
  void set_updates(int64_t updates);

  /// `before` and the sum of the losses of a batch in nats, with nothing changed or counted. With many ranks it is this
  /// rank's batch, and the sums of all ranks' are added in their order.
  double evaluate(const PackedBatch& batch, double before = 0);

  /// The logits of the token after `tokens` (at most seq_len of them), for a sample of what the model has learnt. Every
  /// call runs over all tokens: generation proper is generate/'s, with a cache.
  std::vector<float> next_token_logits(std::span<const int32_t> tokens);

  /// What the optimizer keeps of each trained parameter, by the names that it gives: OptimizerState::slot.
  const std::vector<std::string>& optimizer_slots() const { return optimizer_.optimizer().slots(); }
  SlotPart optimizer_slot(const Parameter& parameter, std::string_view name) const {
    return optimizer_.slot(model_.parameters(), parameter, name);
  }

  /// The optimizer's and the files' parts that are this rank's.
  const BucketShards& shards() const { return shards_; }
  /// Whether this stage's ranks answer for a parameter: of a table that two stages hold, the first does.
  bool answers_for(const Parameter& parameter) const { return &parameter != shared_table_ || runner_.holds(0); }

  /// While set, the experts that tokens choose are recorded there or replayed from there; nullptr ends it.
  void set_routes(RouteRecord* routes) { routes_ = routes; }
  /// While set, every op's output is looked at, and the first value that is not finite throws, naming the op.
  void set_check_finite(bool check) { ctx_.check_finite = check; }
  /// While set, time and floating-point operations are kept by op; nullptr ends it.
  void set_profile(OpProfile* profile) { ctx_.profile = profile; }

 private:
  // What is captured and replayed as a whole. What differs from step to step lies in memory, and gradients are
  // overwritten by the first microbatch of a step and added to by the later ones.
  enum StepPart : size_t {
    kBegin,
    kFirstMicrobatch,
    kLaterMicrobatch,
    kLastMicrobatch,
    kOnlyMicrobatch,  // the first and the last
    kEnd,
    kStepParts
  };
  static bool is_last(StepPart part) { return part == kLastMicrobatch || part == kOnlyMicrobatch; }
  StepPart microbatch_part() const;
  struct CapturedPart {
    std::unique_ptr<CapturedGraph> graph;
    std::vector<bool> gradients_written;  // behind it, by parameter: what its launches leave to the parts behind it
    bool run_before = false;
  };
  void run_part(StepPart part);
  void run_or_replay(StepPart part);
  void run_ops(StepPart part, bool experts_in_slices);
  void apply_step();
  void take_memory();
  void adopt_expert_memory();
  void adopt(PeerMemory& memory, const std::vector<Arena*>& arenas);
  void plan_step();
  void load_batch(const PackedBatch& batch, size_t slot);
  // A step as it was asked for, to be run again.
  struct QueuedStep {
    StepInput in;
    double tokens = 0;
    int64_t runs = 1;
    std::vector<PackedBatch> batches;
    std::vector<RouteRecord*> routes;  // of each batch
  };
  void freeze_and_count(const ModelConfig& config);
  void add_up_stages(const Tensor& x);
  void start_step();
  void run_microbatches(bool experts_in_slices);
  void run_again();
  void decide_step();
  void add_up_ranks();
  StepState state();
  template <typename Body>
  void naming_step(int64_t step, const Body& body) const;
  void queue_report();
  StepResult read_report();

  TrainingEngineOptions options_;
  DeepseekModel model_;
  StepStatistics statistics_;
  StageRunner runner_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  Arena* parameters_;
  Arena* gradients_;
  Arena* optimizer_memory_;
  Arena* prepared_;
  Arena* activations_;
  Arena* activation_gradients_;
  Arena* recomputed_ = nullptr;  // where something is recomputed that several layers or records share
  Arena* inputs_;
  Arena* workspace_;
  MemoryPlan plan_;
  std::vector<PlannedExchange> exchanges_;
  BucketShards shards_;
  GradientShards gradient_shards_;
  OptimizerState optimizer_;

  ExecutionContext ctx_;
  UploadRing uploads_;
  BegunParts begun_;
  std::array<CapturedPart, kStepParts> parts_;
  int64_t microbatch_runs_ = 0;  // of the schedule, in this step
  int64_t step_runs_ = 1;        // that this step has
  StepState input_;              // `in` as it is copied to the device
  double step_tokens_ = 1;
  Tensor state_;                                     // the StepState there
  Tensor loss_sums_;                                 // f64 [ranks with sequences], of a validation batch each
  std::deque<std::unique_ptr<StepReport>> reports_;  // of the steps that the host has not looked at, the oldest first
  std::vector<std::unique_ptr<StepReport>> spare_reports_;
  std::vector<MicrobatchInputs> microbatches_;  // as many as the schedule has
  std::vector<Tensor> document_offsets_;        // i32 [tokens + 1] each
  size_t microbatches_loaded_ = 0;              // of those that the schedule waits for
  // Of each parameter with a gradient here, in order: its row among those of the whole model; -1: another rank counts
  // it.
  std::vector<int64_t> square_sum_rows_;
  int64_t square_sum_count_ = 0;        // rows
  std::vector<int64_t> expert_layers_;  // of the whole model
  Parameter* shared_table_ = nullptr;   // where it lies here: what the first stage and the last both add to
  bool may_overflow_ = false;
  std::deque<QueuedStep> queued_;  // where rows may overflow: the steps that have no report yet, the oldest first
  Tensor sequence_offset_, sample_logits_;
  std::vector<int32_t> host_offsets_, next_ids_, next_targets_;  // of the batch that is loaded

  RouteRecord* routes_ = nullptr;
};

}  // namespace deeptitan

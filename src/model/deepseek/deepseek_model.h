#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "config/model_config.h"
#include "model/attention/rope_table.h"
#include "model/decoder_layer.h"
#include "model/head.h"
#include "model/next_token_prediction.h"
#include "model/parameter.h"
#include "model/stage.h"
#include "model/step_statistics.h"

namespace deeptitan {

struct ModelOptions {
  bool training = true;                                     // gradients pass through it; false: it only runs
  DType compute = DType::kF32;                              // of activations and products: f32 or bf16
  int64_t max_positions = 0;                                // longest sequence that positions are tabulated for
  Recomputation recomputation = Recomputation::kNothing;    // training
  bool next_token_prediction = true;                        // training: with the modules that the config has
  double auxiliary_weight = 0.0;                            // of the sequence-wise balance loss
  MakeDispatcher make_dispatcher = make_local_dispatcher;   // of each layer with experts
  ExpertRange experts = {};                                 // of each layer that has some: those that lie here
  std::optional<GroupedGemmStrategy> expert_products = {};  // on a GPU, of a model that only runs
  std::vector<Stage> stages = {};                           // that lie here; empty: the whole model
  double mtp_weight = 0.3;  // of the next-token-prediction losses' mean (DeepSeek-V3 section 4.2: 0.3)
};

/// What a training batch asks for besides its layout. T tokens.
struct TrainingTargets {
  Tensor targets;       // i32 [T]: the next token, -1 where none bears a loss
  Tensor next_ids;      // i32 [T]: the next token, 0 where there is none; input of the next-token-prediction module
  Tensor next_targets;  // i32 [T]: the token after the next, -1 where none
};

/// When a microbatch first writes to a parameter's gradient, and when it is complete: 0 the head's, after the forward;
/// 1 the next-token-prediction modules' and 2 the final norm's, in the backward; then one more after each layer, and
/// one for the embedding.
struct GradientTime {
  static constexpr int64_t kHead = 0, kModules = 1, kFinalNorm = 2;

  int64_t first = 0;
  int64_t complete = 0;
};

/// DeepSeek-V2 and V3: embedding, decoder layers, final norm, head, and next-token-prediction modules.
/// Owns no tensor memory: everything is taken from arenas that the caller plans and allocates.
class DeepseekModel {
 public:
  DeepseekModel(const ModelConfig& config, const ModelOptions& options);
  DeepseekModel(const DeepseekModel&) = delete;
  DeepseekModel& operator=(const DeepseekModel&) = delete;

  const ModelConfig& config() const { return config_; }
  const ModelOptions& options() const { return options_; }
  ParameterList& parameters() { return parameters_; }
  const ParameterList& parameters() const { return parameters_; }

  /// The model with all its stages and experts, of which nothing lies in memory: what belongs to it, wherever that is.
  /// Itself where all stages lie here.
  DeepseekModel& whole() { return whole_ == nullptr ? *this : *whole_; }
  const DeepseekModel& whole() const { return whole_ == nullptr ? *this : *whole_; }

  /// Takes the memory of what is computed once: the rotary tables.
  void plan_constants(Arena& arena) { rope_.plan(arena); }

  // Training. ------------------------------------------------------------------------------------------------------

  /// All tensors of one microbatch of `tokens` tokens in a stage. Where the backward of the weights may be put off, its
  /// gradients have memory of their own; else they share arenas.gradients with all other records. Throws a usage error
  /// where it may and layers are recomputed. With Recomputation::kCheap arenas.recomputed is there and holds nothing
  /// else: all layers of all records use it in turn.
  class StageRecord;
  std::unique_ptr<StageRecord> make_record(const Stage& stage, const RecordArenas& arenas, int64_t tokens,
                                           bool weights_put_off) const;
  void plan_statistics(StepStatistics& statistics, Arena& arena) const;

  /// Before a step's first microbatch: each gradient's first write overwrites it, but for the embedding's table, whose
  /// rows are added to one by one and which is cleared.
  void begin_step(ExecutionContext& ctx);
  /// After the last: clears the gradients that nothing was written to.
  void end_step(ExecutionContext& ctx);

  /// The same for one parameter, where a gradient is that of a microbatch alone.
  void begin_gradient(ExecutionContext& ctx, Parameter& parameter);
  void end_gradient(ExecutionContext& ctx, Parameter& parameter);
  /// Of the parameter of this place in the list.
  GradientTime gradient_time(size_t parameter) const;
  /// Of a layer's parameters; of the embedding's: that of layer -1.
  int64_t gradient_time_of_layer(int64_t layer) const {
    return GradientTime::kFinalNorm + static_cast<int64_t>(layers_.size()) - layer;
  }
  /// Whether more than the embedding's own backward writes to the table's gradient: a tied head, or a module.
  bool table_is_shared() const { return config_.tie_word_embeddings || next_token_modules_ > 0; }

  /// Forward of one microbatch through a stage: from record.inputs() (where the stage has no embedding) to
  /// record.outputs() (where it has no head). With a head it adds to the step state's sums of the main loss and of the
  /// next-token-prediction losses (unweighted), in nats, and to the head's gradients.
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const TrainingTargets& targets,
               StageRecord& record);
  /// From the gradients of the stage's outputs to those of its inputs: kInput, adding to the weights' gradients:
  /// kWeights, once after kInput, or both, layer by layer.
  enum class Backward { kInput, kWeights, kBoth };
  void backward(ExecutionContext& ctx, const ForwardContext& forward, const TrainingTargets& targets, Backward what,
                StageRecord& record);

  // Inference and validation. --------------------------------------------------------------------------------------

  /// out = the state behind a stage: behind the final norm, where it has the head. Nothing is saved.
  void forward_stage(ExecutionContext& ctx, const ForwardContext& forward, const Stage& stage,
                     const Tensor& out /* [T, D] */, const Tensor& in /* [T, D], undefined: with the embedding */);
  /// The same of the whole model.
  void forward_hidden(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& hidden /* [T, D] */);
  /// Of a model whose last stage lies here.
  const LanguageModelHead& head() const { return *head_; }
  /// The table of the tokens; nullptr where no stage here reads it.
  Parameter* embedding_table() const { return embedding_; }

  /// What each layer caches; layers in order, next-token-prediction modules not included.
  std::vector<std::vector<CacheStream>> cache_streams() const;

  /// Layers with experts that lie here: index and the layer. Next-token-prediction modules come last, with indices
  /// behind the layers'.
  std::vector<std::pair<int64_t, const MixtureOfExperts*>> expert_layers() const;
  /// Layers of all stages including next-token-prediction modules: what per-layer statistics are sized by.
  int64_t total_layers() const { return static_cast<int64_t>(layers_.size()) + next_token_modules_; }
  /// Next-token-prediction modules in training, wherever they lie.
  int64_t next_token_modules() const { return next_token_modules_; }
  /// Whether a step can be captured whole as a graph: every dispatcher can.
  bool can_be_captured(int64_t tokens) const;
  /// Whether a step of `tokens` tokens may have more rows somewhere than its dispatcher has room for.
  bool rows_may_overflow(int64_t tokens) const;

 private:
  ModelConfig config_;
  ModelOptions options_;
  std::unique_ptr<DeepseekModel> whole_;  // where stages lie elsewhere
  ParameterList parameters_;
  RopeTable rope_;
  Parameter* embedding_ = nullptr;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;  // nullptr: it lies elsewhere
  std::vector<size_t> layer_ends_;                     // the place in the list behind each layer's parameters
  size_t head_begin_ = 0, modules_begin_ = 0;          // the places of the first of theirs
  const StageRecord* last_forward_ = nullptr;          // since which no layer has run again
  std::optional<NormLayer> final_norm_;
  std::optional<LanguageModelHead> head_;
  int64_t next_token_modules_ = 0;
  std::vector<std::unique_ptr<NextTokenPrediction>> mtp_;  // that lie here
};

class DeepseekModel::StageRecord {
 public:
  /// What crosses the stage's boundaries, [T, D] each, and its gradients.
  std::vector<Tensor> inputs() const { return {hidden.front()}; }
  std::vector<Tensor> outputs() const { return {hidden.back()}; }
  std::vector<Tensor> d_inputs() const { return {gradient(0)}; }
  std::vector<Tensor> d_outputs() const { return {gradient(stage.layers())}; }

 private:
  friend class DeepseekModel;
  // The gradient of hidden[place]: a tensor each, or two in turn.
  const Tensor& gradient(int64_t place) const {
    return d_hidden[d_hidden.size() == hidden.size() ? place : (stage.layers() - place) % 2];
  }

  Stage stage;
  // The layers' inputs, then the last one's output: [T, D] each.
  std::vector<Tensor> hidden;
  std::vector<Tensor> d_hidden;
  // One record a layer, or one that all share where layers are recomputed.
  std::vector<std::unique_ptr<Record>> layers;
  std::vector<std::unique_ptr<Record>> mtp;
  Tensor normed, rstd;  // after the final norm
  Tensor d_normed;      // [T, D]
  Tensor loss;          // f32 [T]
};

}  // namespace deeptitan

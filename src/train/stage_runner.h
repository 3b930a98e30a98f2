#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/execution_context.h"
#include "model/deepseek/deepseek_model.h"
#include "parallel/rank_groups.h"
#include "parallel/schedule.h"

namespace deeptitan {

/// What a microbatch brings to every stage.
struct MicrobatchInputs {
  BatchLayout layout;
  TrainingTargets targets;
};

/// Stages of a rank: those of all of a model's that lie there.
std::vector<Stage> stages_of_rank(const std::vector<Stage>& stages, const Schedule& schedule, int rank);

/// Runs a pipeline schedule: each stage's forwards and backwards on records from a pool of as many as the schedule has
/// alive at once. It runs one rank's actions, which exchange what crosses stages with the other ranks; or those of all
/// ranks, each as far as what it receives has been sent. One rank and one stage is the loop over microbatches.
class StageRunner {
 public:
  /// `stages` are all of the model's, wherever they lie. Simulates the schedule first: one that does not end, or would
  /// change bits, is refused.
  StageRunner(DeepseekModel& model, std::vector<Stage> stages, Schedule schedule, const RankGroups& ranks = {});

  const Schedule& schedule() const { return schedule_; }
  /// Whether the stage lies here.
  bool holds(int stage) const { return !ranks_.pipelined() || schedule_.rank_of(stage) == ranks_.pipeline->rank(); }
  bool holds_head() const { return holds(schedule_.stages - 1); }
  /// Whether the first stage and the last lie on different ranks.
  bool ends_apart() const {
    return ranks_.pipelined() && schedule_.rank_of(0) != schedule_.rank_of(schedule_.stages - 1);
  }
  /// Whether several microbatches, or stages, have their records here at once.
  bool has_many_records() const;
  /// Takes the records' memory.
  void plan(const RecordArenas& arenas, int64_t tokens);
  /// Runs the schedule over its microbatches. `auxiliary`, `routes`, `experts_in_slices` and `gradients` as in
  /// ForwardContext.
  void run(ExecutionContext& ctx, std::span<const MicrobatchInputs> microbatches, AuxiliarySink* auxiliary,
           RouteRecord* routes, bool experts_in_slices, GradientObserver* gradients = nullptr);
  /// hidden = the state after the final norm, where the last stage lies here. Nothing is saved.
  void forward_hidden(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& hidden /* [T, D] */);
  /// The gradient of a table that the first stage and the last both hold and add to: on both, the sum of both.
  void add_up_shared(ExecutionContext& ctx, const Tensor& gradient) const;

 private:
  using StageRecord = DeepseekModel::StageRecord;
  using Place = std::pair<int, int>;  // stage, microbatch
  // What a run is over: the inputs, and where layers leave what is not their output.
  struct Run {
    ExecutionContext& ctx;
    std::span<const MicrobatchInputs> microbatches;
    AuxiliarySink* auxiliary;
    RouteRecord* routes;
    bool experts_in_slices;
    GradientObserver* gradients;

    ForwardContext context(int microbatch) const {
      return {.batch = microbatches[microbatch].layout,
              .auxiliary = auxiliary,
              .routes = routes,
              .experts_in_slices = experts_in_slices,
              .gradients = gradients};
    }
  };

  // Whether the boundary before a stage is crossed by a message, rather than within this process.
  bool receives(int stage) const { return ranks_.pipelined() && schedule_.comes_from_afar(stage); }
  bool advance(const Run& run, const Action& action);
  void forward(const Run& run, const Action& action);
  void backward(const Run& run, const Action& action, DeepseekModel::Backward what);
  void begin(Place place);
  void finish_sending_from(ExecutionContext& ctx, Place place);
  void receive(ExecutionContext& ctx, Communicator& from_group, const std::vector<Tensor>& tensors, int from_stage);
  void send(ExecutionContext& ctx, Communicator& to_group, const std::vector<Tensor>& tensors, int to_stage);
  void receive_from_here(ExecutionContext& ctx, Place to);
  void give_to_stage_before(ExecutionContext& ctx, Place from);
  size_t index(Place place) const {
    return static_cast<size_t>(place.first) * static_cast<size_t>(schedule_.microbatches) +
           static_cast<size_t>(place.second);
  }
  StageRecord& record_at(Place place);
  void give_back(Place place);

  DeepseekModel& model_;
  std::vector<Stage> stages_;
  Schedule schedule_;
  RankGroups ranks_;
  bool weights_put_off_ = false;
  std::vector<int> live_records_;                      // by stage
  std::vector<std::unique_ptr<StageRecord>> records_;  // all of them
  std::vector<std::vector<StageRecord*>> free_;        // by stage
  // By stage and microbatch: the record of one that is begun and not ended, whether the backward of its weights is
  // over, and what has been sent in this run.
  std::vector<StageRecord*> live_;
  std::vector<char> weights_done_, sent_forward_, sent_backward_;
  std::vector<size_t> next_;                          // by rank: the action that comes next
  std::map<int64_t, const Record*> waiting_experts_;  // by layer: the first of two microbatches with paired weights
};

}  // namespace deeptitan

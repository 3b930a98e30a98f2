#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/execution_context.h"
#include "model/deepseek/deepseek_model.h"
#include "parallel/schedule.h"

namespace deeptitan {

/// What a microbatch brings to every stage.
struct MicrobatchInputs {
  BatchLayout layout;
  TrainingTargets targets;
};

/// Runs a pipeline schedule: each stage's forwards and backwards on records from a pool of as many as the schedule has
/// alive at once. All ranks of the schedule are run here, each as far as what it receives has been sent; one rank and
/// one stage is the loop over microbatches.
class StageRunner {
 public:
  /// Simulates the schedule first: one that does not end, or would change bits, is refused.
  StageRunner(DeepseekModel& model, std::vector<Stage> stages, Schedule schedule);

  const Schedule& schedule() const { return schedule_; }
  /// Takes the records' memory.
  void plan(const RecordArenas& arenas, int64_t tokens);
  /// Runs the schedule over its microbatches. `auxiliary`, `routes` and `experts_in_slices` as in ForwardContext.
  void run(ExecutionContext& ctx, std::span<const MicrobatchInputs> microbatches, AuxiliarySink* auxiliary,
           RouteRecord* routes, bool experts_in_slices);

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

    ForwardContext context(int microbatch) const {
      return {.batch = microbatches[microbatch].layout,
              .auxiliary = auxiliary,
              .routes = routes,
              .experts_in_slices = experts_in_slices};
    }
  };

  bool advance(const Run& run, const Action& action);
  void forward(const Run& run, const Action& action);
  void backward(const Run& run, const Action& action, DeepseekModel::Backward what);
  void receive_forward(ExecutionContext& ctx, Place to);
  void send_backward(ExecutionContext& ctx, Place from);
  size_t index(Place place) const { return static_cast<size_t>(place.first * schedule_.microbatches + place.second); }
  StageRecord& record_at(Place place);
  void give_back(Place place);

  DeepseekModel& model_;
  std::vector<Stage> stages_;
  Schedule schedule_;
  bool weights_put_off_ = false;
  std::vector<int> live_records_;                      // by stage
  std::vector<std::unique_ptr<StageRecord>> records_;  // all of them
  std::vector<std::vector<StageRecord*>> free_;        // by stage
  // By stage and microbatch: the record of one that is begun and not ended, and what has been sent in this run.
  std::vector<StageRecord*> live_;
  std::vector<char> sent_forward_, sent_backward_;
  std::vector<size_t> next_;  // by rank: the action that comes next
};

}  // namespace deeptitan

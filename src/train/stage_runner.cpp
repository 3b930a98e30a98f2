#include "train/stage_runner.h"

#include <algorithm>

#include "core/error.h"
#include "ops/moe.h"
#include "parallel/schedule_simulator.h"

namespace deeptitan {
namespace {

void copy_all(ExecutionContext& ctx, const std::vector<Tensor>& to, const std::vector<Tensor>& from) {
  for (size_t i = 0; i < from.size(); ++i) copy(ctx, to[i], from[i]);
}

}  // namespace

StageRunner::StageRunner(DeepseekModel& model, std::vector<Stage> stages, Schedule schedule)
    : model_(model), stages_(std::move(stages)), schedule_(std::move(schedule)) {
  DT_CHECK_USAGE(static_cast<int>(stages_.size()) == schedule_.stages, "a schedule of {} stages for a model of {}",
                 schedule_.stages, stages_.size());
  live_records_ = simulate(schedule_).live_records;
  for (const std::vector<Action>& actions : schedule_.actions) {
    for (const Action& action : actions) weights_put_off_ |= action.kind == ActionKind::kBackwardWeights;
  }
}

void StageRunner::plan(const RecordArenas& arenas, int64_t tokens) {
  records_.clear();
  free_.assign(stages_.size(), {});
  for (size_t s = 0; s < stages_.size(); ++s) {
    for (int i = 0; i < live_records_[s]; ++i) {
      records_.push_back(model_.make_record(stages_[s], arenas, tokens, weights_put_off_));
      free_[s].push_back(records_.back().get());
    }
  }
}

void StageRunner::run(ExecutionContext& ctx, std::span<const MicrobatchInputs> microbatches, AuxiliarySink* auxiliary,
                      RouteRecord* routes, bool experts_in_slices) {
  DT_CHECK(static_cast<int>(microbatches.size()) == schedule_.microbatches,
           "a schedule of {} microbatches was given {}", schedule_.microbatches, microbatches.size());
  const Run whole{ctx, microbatches, auxiliary, routes, experts_in_slices};
  const size_t places = stages_.size() * microbatches.size();
  live_.assign(places, nullptr);
  sent_forward_.assign(places, 0);
  sent_backward_.assign(places, 0);
  next_.assign(schedule_.actions.size(), 0);
  // The simulation has shown that this ends.
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t rank = 0; rank < next_.size(); ++rank) {
      const std::vector<Action>& actions = schedule_.actions[rank];
      while (next_[rank] < actions.size() && advance(whole, actions[next_[rank]])) {
        ++next_[rank];
        moved = true;
      }
    }
  }
}

// Does one action; false where what it receives has not been sent.
bool StageRunner::advance(const Run& run, const Action& action) {
  const Place place{action.stage, action.microbatch};
  switch (action.kind) {
    case ActionKind::kForward:
      forward(run, action);
      return true;
    case ActionKind::kBackward:
      backward(run, action, DeepseekModel::Backward::kBoth);
      return true;
    case ActionKind::kBackwardInput:
      backward(run, action, DeepseekModel::Backward::kInput);
      return true;
    case ActionKind::kBackwardWeights:
      backward(run, action, DeepseekModel::Backward::kWeights);
      return true;
    case ActionKind::kSendForward:
      sent_forward_[index(place)] = 1;
      return true;
    case ActionKind::kSendBackward:
      sent_backward_[index(place)] = 1;
      return true;
    case ActionKind::kReceiveForward:
      return sent_forward_[index({action.stage - 1, action.microbatch})] != 0;
    case ActionKind::kReceiveBackward:
      return sent_backward_[index({action.stage + 1, action.microbatch})] != 0;
    case ActionKind::kReduce:
      return true;  // there is one rank for each stage
  }
  return true;
}

void StageRunner::forward(const Run& run, const Action& action) {
  const Place place{action.stage, action.microbatch};
  std::vector<StageRecord*>& free = free_[action.stage];
  DT_CHECK(!free.empty(), "{}: no record is free; the schedule has more than {} alive", describe(action),
           live_records_[action.stage]);
  live_[index(place)] = free.back();
  free.pop_back();
  if (action.stage > 0) receive_forward(run.ctx, place);
  model_.forward(run.ctx, run.context(action.microbatch), run.microbatches[action.microbatch].targets,
                 record_at(place));
}

void StageRunner::backward(const Run& run, const Action& action, DeepseekModel::Backward what) {
  const Place place{action.stage, action.microbatch};
  model_.backward(run.ctx, run.context(action.microbatch), run.microbatches[action.microbatch].targets, what,
                  record_at(place));
  if (action.stage > 0 && what != DeepseekModel::Backward::kWeights) send_backward(run.ctx, place);
  if (what != DeepseekModel::Backward::kInput) give_back(place);
}

// The stage before keeps its record, and so its output, until its own backward.
void StageRunner::receive_forward(ExecutionContext& ctx, Place to) {
  copy_all(ctx, record_at(to).inputs(), record_at({to.first - 1, to.second}).outputs());
}

// The stage before has its record already: the gradient goes there at once, before this record is used again.
void StageRunner::send_backward(ExecutionContext& ctx, Place from) {
  copy_all(ctx, record_at({from.first - 1, from.second}).d_outputs(), record_at(from).d_inputs());
}

StageRunner::StageRecord& StageRunner::record_at(Place place) {
  return *live_[index(place)];
}

void StageRunner::give_back(Place place) {
  free_[place.first].push_back(&record_at(place));
  live_[index(place)] = nullptr;
}

}  // namespace deeptitan

#include "train/stage_runner.h"

#include <algorithm>

#include "comm/exchange_scope.h"
#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/moe.h"
#include "parallel/schedule_simulator.h"

namespace deeptitan {
namespace {

void copy_all(ExecutionContext& ctx, const std::vector<Tensor>& to, const std::vector<Tensor>& from) {
  for (size_t i = 0; i < from.size(); ++i) copy(ctx, to[i], from[i]);
}

}  // namespace

std::vector<Stage> stages_of_rank(const std::vector<Stage>& stages, const Schedule& schedule, int rank) {
  std::vector<Stage> here;
  for (int stage = 0; stage < schedule.stages; ++stage) {
    if (schedule.rank_of(stage) == rank) here.push_back(stages[stage]);
  }
  return here;
}

StageRunner::StageRunner(DeepseekModel& model, std::vector<Stage> stages, Schedule schedule, const RankGroups& ranks)
    : model_(model), stages_(std::move(stages)), schedule_(std::move(schedule)), ranks_(ranks) {
  DT_CHECK_USAGE(static_cast<int>(stages_.size()) == schedule_.stages, "a schedule of {} stages for a model of {}",
                 schedule_.stages, stages_.size());
  DT_CHECK(!ranks_.pipelined() || ranks_.pipeline->size() == schedule_.ranks,
           "a schedule of {} ranks for a pipeline of {}", schedule_.ranks, ranks_.pipeline->size());
  live_records_ = simulate(schedule_).live_records;
  for (const std::vector<Action>& actions : schedule_.actions) {
    for (const Action& action : actions) weights_put_off_ |= action.kind == ActionKind::kBackwardWeights;
  }
}

bool StageRunner::has_many_records() const {
  int records = 0;
  for (size_t s = 0; s < stages_.size(); ++s) records += holds(static_cast<int>(s)) ? live_records_[s] : 0;
  return records > 1;
}

void StageRunner::plan(const RecordArenas& arenas, int64_t tokens) {
  records_.clear();
  free_.assign(stages_.size(), {});
  for (size_t s = 0; s < stages_.size(); ++s) {
    for (int i = 0; holds(static_cast<int>(s)) && i < live_records_[s]; ++i) {
      records_.push_back(model_.make_record(stages_[s], arenas, tokens, weights_put_off_));
      free_[s].push_back(records_.back().get());
    }
  }
}

void StageRunner::run(ExecutionContext& ctx, std::span<const MicrobatchInputs> microbatches, AuxiliarySink* auxiliary,
                      RouteRecord* routes, bool experts_in_slices, GradientObserver* gradients) {
  DT_CHECK(static_cast<int>(microbatches.size()) == schedule_.microbatches,
           "a schedule of {} microbatches was given {}", schedule_.microbatches, microbatches.size());
  const Run whole{ctx, microbatches, auxiliary, routes, experts_in_slices, gradients};
  const size_t places = stages_.size() * microbatches.size();
  live_.assign(places, nullptr);
  weights_done_.assign(places, 0);
  if (ranks_.pipelined()) {
    for (const Action& action : schedule_.actions[ranks_.pipeline->rank()]) advance(whole, action);
    ranks_.pipeline->finish_sends(ctx);
    ranks_.pipeline_backward->finish_sends(ctx);
    return;
  }
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

// Does one action; false where what it receives has not been sent within this process.
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
      if (ranks_.pipelined()) {
        send(run.ctx, *ranks_.pipeline, record_at(place).outputs(), action.stage + 1);
      } else {
        sent_forward_[index(place)] = 1;
      }
      return true;
    case ActionKind::kSendBackward:
      if (ranks_.pipelined()) {
        send(run.ctx, *ranks_.pipeline_backward, record_at(place).d_inputs(), action.stage - 1);
        if (weights_done_[index(place)] != 0) give_back(place);
      } else {
        sent_backward_[index(place)] = 1;
      }
      return true;
    case ActionKind::kReceiveForward:
      if (!ranks_.pipelined()) return sent_forward_[index({action.stage - 1, action.microbatch})] != 0;
      begin(place);
      receive(run.ctx, *ranks_.pipeline, record_at(place).inputs(), action.stage - 1);
      return true;
    case ActionKind::kReceiveBackward:
      if (!ranks_.pipelined()) return sent_backward_[index({action.stage + 1, action.microbatch})] != 0;
      finish_sending_from(run.ctx, place);
      receive(run.ctx, *ranks_.pipeline_backward, record_at(place).d_outputs(), action.stage + 1);
      return true;
    case ActionKind::kReduce:
      return true;  // the engine reduces gradients once, when all microbatches are over
  }
  return true;
}

void StageRunner::begin(Place place) {
  std::vector<StageRecord*>& free = free_[place.first];
  DT_CHECK(!free.empty(), "microbatch {} in stage {}: no record is free; the schedule has more than {} alive",
           place.second, place.first, live_records_[place.first]);
  live_[index(place)] = free.back();
  free.pop_back();
}

void StageRunner::forward(const Run& run, const Action& action) {
  const Place place{action.stage, action.microbatch};
  if (live_[index(place)] == nullptr) begin(place);
  if (action.stage > 0 && !receives(action.stage)) receive_from_here(run.ctx, place);
  model_.forward(run.ctx, run.context(action.microbatch), run.microbatches[action.microbatch].targets,
                 record_at(place));
}

void StageRunner::backward(const Run& run, const Action& action, DeepseekModel::Backward what) {
  const Place place{action.stage, action.microbatch};
  const bool of_input = what != DeepseekModel::Backward::kWeights;
  if (of_input) finish_sending_from(run.ctx, place);
  ForwardContext context = run.context(action.microbatch);
  if (schedule_.paired_weights && what == DeepseekModel::Backward::kWeights) {
    context.paired = {.first = action.microbatch % 2 == 0, .waiting = &waiting_experts_};
  }
  model_.backward(run.ctx, context, run.microbatches[action.microbatch].targets, what, record_at(place));
  if (action.stage > 0 && !receives(action.stage) && of_input) give_to_stage_before(run.ctx, place);
  if (what == DeepseekModel::Backward::kInput) return;
  weights_done_[index(place)] = 1;
  // Whole once its gradient has been sent as well.
  if (!receives(action.stage) || what == DeepseekModel::Backward::kWeights) give_back(place);
}

// Before gradients are written to the record again: it may hold those that an earlier microbatch still sends.
void StageRunner::finish_sending_from(ExecutionContext& ctx, Place place) {
  if (!receives(place.first)) return;
  for (const Tensor& x : record_at(place).d_inputs()) ranks_.pipeline_backward->finish_send(ctx, x);
}

void StageRunner::receive(ExecutionContext& ctx, Communicator& from_group, const std::vector<Tensor>& tensors,
                          int from_stage) {
  const ExchangeScope exchange(ctx);
  for (const Tensor& x : tensors) from_group.receive(ctx, x, schedule_.rank_of(from_stage));
}

void StageRunner::send(ExecutionContext& ctx, Communicator& to_group, const std::vector<Tensor>& tensors,
                       int to_stage) {
  const ExchangeScope exchange(ctx);
  for (const Tensor& x : tensors) to_group.send(ctx, x, schedule_.rank_of(to_stage));
}

// The stage before keeps its record, and so its output, until its own backward.
void StageRunner::receive_from_here(ExecutionContext& ctx, Place to) {
  copy_all(ctx, record_at(to).inputs(), record_at({to.first - 1, to.second}).outputs());
}

// The stage before has its record already: the gradient goes there at once, before this record is used again.
void StageRunner::give_to_stage_before(ExecutionContext& ctx, Place from) {
  const Place to{from.first - 1, from.second};
  finish_sending_from(ctx, to);
  copy_all(ctx, record_at(to).d_outputs(), record_at(from).d_inputs());
}

void StageRunner::forward_hidden(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& hidden) {
  if (!ranks_.pipelined()) return model_.forward_hidden(ctx, forward, hidden);
  ArenaScope workspace(*ctx.workspace);
  Tensor in = workspace.take(hidden.dtype(), {hidden.size(0), hidden.size(1)});
  Tensor between = workspace.take(hidden.dtype(), {hidden.size(0), hidden.size(1)});
  for (int s = 0; s < schedule_.stages; ++s) {
    if (!holds(s)) continue;
    const bool last = s + 1 == schedule_.stages;
    if (receives(s)) {
      receive(ctx, *ranks_.pipeline, {in}, s - 1);
    } else {
      std::swap(in, between);  // what the stage before left
    }
    ranks_.pipeline->finish_sends(ctx);
    model_.forward_stage(ctx, forward, stages_[s], last ? hidden : between, s > 0 ? in : Tensor());
    if (!last && receives(s + 1)) send(ctx, *ranks_.pipeline, {between}, s + 1);
  }
  ranks_.pipeline->finish_sends(ctx);
}

void StageRunner::add_up_shared(ExecutionContext& ctx, const Tensor& gradient) const {
  const int first = schedule_.rank_of(0);
  const int last = schedule_.rank_of(schedule_.stages - 1);
  if (!ends_apart() || (ranks_.pipeline->rank() != first && ranks_.pipeline->rank() != last)) return;
  const bool is_first = ranks_.pipeline->rank() == first;
  const int other = is_first ? last : first;
  Communicator& group = *ranks_.pipeline;
  // In pieces, so that little memory is needed; one of the two receives first, so that neither waits for the other.
  constexpr int64_t kPieceElements = int64_t{1} << 20;
  const int64_t rows = std::clamp<int64_t>(kPieceElements / gradient.size(1), 1, gradient.size(0));
  ArenaScope workspace(*ctx.workspace);
  const Tensor theirs = workspace.take(DType::kF32, {rows, gradient.size(1)});
  for (int64_t begin = 0; begin < gradient.size(0); begin += rows) {
    const int64_t end = std::min(begin + rows, gradient.size(0));
    const Tensor mine = gradient.rows(begin, end);
    const Tensor piece = theirs.rows(0, end - begin);
    {
      const ExchangeScope exchange(ctx);
      if (is_first) group.send(ctx, mine, other);
      group.receive(ctx, piece, other);
      if (!is_first) group.send(ctx, mine, other);
      group.finish_send(ctx, mine);
    }
    add(ctx, mine, mine, piece);
  }
}

StageRunner::StageRecord& StageRunner::record_at(Place place) {
  return *live_[index(place)];
}

void StageRunner::give_back(Place place) {
  free_[place.first].push_back(&record_at(place));
  live_[index(place)] = nullptr;
}

}  // namespace deeptitan

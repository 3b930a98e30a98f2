#include "parallel/schedule.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace deeptitan {
namespace {

const char* verb(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward:
      return "forward";
    case ActionKind::kBackward:
      return "backward";
    case ActionKind::kBackwardInput:
      return "backward of the input";
    case ActionKind::kBackwardWeights:
      return "backward of the weights";
    case ActionKind::kSendForward:
      return "send forward";
    case ActionKind::kReceiveForward:
      return "receive forward";
    case ActionKind::kSendBackward:
      return "send backward";
    case ActionKind::kReceiveBackward:
      return "receive backward";
    case ActionKind::kReduce:
      return "reduce";
  }
  return "";
}

void check_counts(int ranks, int microbatches) {
  DT_CHECK_USAGE(ranks >= 1 && microbatches >= 1,
                 "a pipeline has at least one rank and one microbatch, found {} and {}", ranks, microbatches);
}

bool ends_weights(const Action& action) {
  return action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardWeights;
}

}  // namespace

int Schedule::place_on_rank(int stage) const {
  int before = 0;
  for (int s = 0; s < stage; ++s) before += rank_of(s) == rank_of(stage) ? 1 : 0;
  return before;
}

Schedule with_transfers(std::string name, int ranks, int stages, int microbatches,
                        const std::vector<std::vector<Action>>& computed, std::vector<int> placement) {
  Schedule schedule{std::move(name), ranks, stages, microbatches, {}, std::move(placement), false};
  for (const std::vector<Action>& of_rank : computed) {
    std::vector<Action>& actions = schedule.actions.emplace_back();
    std::vector<int> left(stages, microbatches);
    for (const Action& action : of_rank) {
      const auto [kind, stage, microbatch] = action;
      const bool forward = kind == ActionKind::kForward;
      const bool to_input = kind == ActionKind::kBackward || kind == ActionKind::kBackwardInput;
      const bool before = schedule.comes_from_afar(stage);
      const bool behind = stage + 1 < stages && schedule.comes_from_afar(stage + 1);
      if (forward && before) actions.push_back({ActionKind::kReceiveForward, stage, microbatch});
      if (to_input && behind) actions.push_back({ActionKind::kReceiveBackward, stage, microbatch});
      actions.push_back(action);
      if (forward && behind) actions.push_back({ActionKind::kSendForward, stage, microbatch});
      if (to_input && before) actions.push_back({ActionKind::kSendBackward, stage, microbatch});
      if (ends_weights(action) && --left[stage] == 0) actions.push_back({ActionKind::kReduce, stage, 0});
    }
  }
  return schedule;
}

std::string describe(const Action& action) {
  if (action.kind == ActionKind::kReduce) return fmt::format("reduce of stage {}", action.stage);
  return fmt::format("{} of microbatch {} in stage {}", verb(action.kind), action.microbatch, action.stage);
}

Schedule gpipe_schedule(int ranks, int microbatches) {
  check_counts(ranks, microbatches);
  std::vector<std::vector<Action>> computed(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    for (int m = 0; m < microbatches; ++m) computed[rank].push_back({ActionKind::kForward, rank, m});
    for (int m = 0; m < microbatches; ++m) computed[rank].push_back({ActionKind::kBackward, rank, m});
  }
  return with_transfers("gpipe", ranks, ranks, microbatches, computed);
}

Schedule one_f_one_b_schedule(int ranks, int microbatches) {
  check_counts(ranks, microbatches);
  std::vector<std::vector<Action>> computed(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const int ahead = std::min(microbatches, ranks - 1 - rank);
    for (int m = 0; m < ahead; ++m) computed[rank].push_back({ActionKind::kForward, rank, m});
    for (int m = 0; m < microbatches; ++m) {
      if (m + ahead < microbatches) computed[rank].push_back({ActionKind::kForward, rank, m + ahead});
      computed[rank].push_back({ActionKind::kBackward, rank, m});
    }
  }
  return with_transfers("1f1b", ranks, ranks, microbatches, computed);
}

Schedule interleaved_schedule(int ranks, int chunks, int microbatches) {
  check_counts(ranks, microbatches);
  DT_CHECK_USAGE(
      chunks >= 1 && microbatches % ranks == 0,
      "the interleaved schedule wants at least one chunk a rank, and microbatches that are a multiple of the "
      "ranks; found {} chunks, {} microbatches on {} ranks",
      chunks, microbatches, ranks);
  const int total = microbatches * chunks;
  // The k-th forward of a rank: `ranks` microbatches through each chunk in turn. The backward takes chunks from behind.
  const auto step = [&](ActionKind kind, int rank, int k) {
    const int turn = k / ranks % chunks;
    const int chunk = kind == ActionKind::kForward ? turn : chunks - 1 - turn;
    return Action{kind, chunk * ranks + rank, k / (ranks * chunks) * ranks + k % ranks};
  };
  std::vector<std::vector<Action>> computed(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const int ahead = std::min(total, chunks == 1 ? ranks - 1 - rank : (ranks - 1 - rank) * 2 + (chunks - 1) * ranks);
    for (int k = 0; k < ahead; ++k) computed[rank].push_back(step(ActionKind::kForward, rank, k));
    for (int k = 0; k < total; ++k) {
      if (k + ahead < total) computed[rank].push_back(step(ActionKind::kForward, rank, k + ahead));
      computed[rank].push_back(step(ActionKind::kBackward, rank, k));
    }
  }
  return with_transfers("interleaved 1f1b", ranks, ranks * chunks, microbatches, computed);
}

Schedule zero_bubble_schedule(int ranks, int microbatches) {
  check_counts(ranks, microbatches);
  std::vector<std::vector<Action>> computed(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<Action>& actions = computed[rank];
    const int ahead = std::min(microbatches, ranks - 1 - rank);
    for (int m = 0; m < ahead; ++m) actions.push_back({ActionKind::kForward, rank, m});
    int weights = 0;
    for (int m = 0; m < microbatches; ++m) {
      const bool more = m + ahead < microbatches;
      if (more) actions.push_back({ActionKind::kForward, rank, m + ahead});
      actions.push_back({ActionKind::kBackwardInput, rank, m});
      // A rank that has fewer microbatches in flight may put off as many weights as it lies behind the first.
      if (!more || m - weights >= rank) actions.push_back({ActionKind::kBackwardWeights, rank, weights++});
    }
    while (weights < microbatches) actions.push_back({ActionKind::kBackwardWeights, rank, weights++});
  }
  return with_transfers("zb-h1", ranks, ranks, microbatches, computed);
}

Schedule paired_weights_schedule() {
  std::vector<Action> actions;
  for (int m = 0; m < 2; ++m) {
    actions.push_back({ActionKind::kForward, 0, m});
    actions.push_back({ActionKind::kBackwardInput, 0, m});
  }
  for (int m = 0; m < 2; ++m) actions.push_back({ActionKind::kBackwardWeights, 0, m});
  Schedule schedule = with_transfers("paired weights", 1, 1, 2, {actions});
  schedule.paired_weights = true;
  return schedule;
}

Schedule make_schedule(const RunConfig::Parallelism& parallelism, int ranks, int microbatches) {
  switch (parallelism.pipeline_parallel_schedule) {
    case PipelineScheduleName::kGPipe:
      return gpipe_schedule(ranks, microbatches);
    case PipelineScheduleName::k1F1B:
      return one_f_one_b_schedule(ranks, microbatches);
    case PipelineScheduleName::kInterleaved1F1B:
      return interleaved_schedule(ranks, static_cast<int>(parallelism.stages_per_rank()), microbatches);
    case PipelineScheduleName::kZeroBubbleH1:
      return zero_bubble_schedule(ranks, microbatches);
  }
  fail("a pipeline schedule without a function");
}

}  // namespace deeptitan

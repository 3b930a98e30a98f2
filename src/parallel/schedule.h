#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace deeptitan {

/// What a rank does with one microbatch of one stage.
enum class ActionKind {
  kForward,
  kBackward,         // of inputs and weights together
  kBackwardInput,    // of the stage's input alone: what the stage before waits for
  kBackwardWeights,  // of the weights, from what kBackwardInput left in the record
  kSendForward,      // the stage's output to the stage behind
  kReceiveForward,   // the stage's input from the stage before
  kSendBackward,     // the input's gradient to the stage before
  kReceiveBackward,  // the output's gradient from the stage behind
  kReduce,           // the stage's gradients are whole: they may be reduced over ranks (microbatch: none)
};

struct Action {
  ActionKind kind = ActionKind::kForward;
  int stage = 0;
  int microbatch = 0;
  bool operator==(const Action&) const = default;
};

/// "forward of microbatch 2 in stage 1"
std::string describe(const Action& action);

/// A pipeline schedule as data: for each rank, what it does, in order.
struct Schedule {
  std::string name;
  int ranks = 1;
  int stages = 1;
  int microbatches = 1;
  std::vector<std::vector<Action>> actions;  // by rank
  std::vector<int> placement = {};           // the rank of each stage; empty: stage s lies on rank s % ranks
  /// Microbatches 2i and 2i + 1 have their weights' backward one right after the other: experts' are added up together.
  bool paired_weights = false;

  int rank_of(int stage) const { return placement.empty() ? stage % ranks : placement[stage]; }
  /// Whether what crosses the boundary before a stage comes from another rank. Neighbours on one rank hand it over
  /// there, without transfers.
  bool comes_from_afar(int stage) const { return stage > 0 && rank_of(stage) != rank_of(stage - 1); }
  /// Stages of the same rank that lie before this one.
  int place_on_rank(int stage) const;
};

/// The schedule of what each rank computes, in order: puts the transfers around it, and a reduction behind each stage's
/// last gradient of weights. `placement` as in Schedule.
Schedule with_transfers(std::string name, int ranks, int stages, int microbatches,
                        const std::vector<std::vector<Action>>& computed, std::vector<int> placement = {});

/// All microbatches forward, then all backward (Huang et al. 2019).
Schedule gpipe_schedule(int ranks, int microbatches);
/// One forward, one backward: at most ranks - rank microbatches alive (Narayanan et al. 2021, section 2.2.1).
Schedule one_f_one_b_schedule(int ranks, int microbatches);
/// The same with `chunks` stages a rank, which divides the bubble by them (the same, section 2.2.2). The microbatches
/// are a multiple of the ranks.
Schedule interleaved_schedule(int ranks, int chunks, int microbatches);
/// ZB-H1 (Qi et al. 2023, arXiv:2401.10241, section 3): as one forward, one backward, with the weights' backward put
/// off into the bubble, and no more microbatches alive than there.
Schedule zero_bubble_schedule(int ranks, int microbatches);

/// One rank, one stage and two microbatches: both forward and backward of inputs, then the weights of both.
Schedule paired_weights_schedule();

/// The one that [parallelism] names.
Schedule make_schedule(const RunConfig::Parallelism& parallelism, int ranks, int microbatches);

}  // namespace deeptitan

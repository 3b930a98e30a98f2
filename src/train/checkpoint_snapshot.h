#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/optimizer_slots.h"
#include "config/run_config.h"
#include "core/arena.h"
#include "train/training_engine.h"

namespace deeptitan {

/// A part of the optimizer's state, as checkpoints hold it, and where it lies in memory.
struct OptimizerSlice {
  SlotSlice slice;
  Tensor memory;  // [elements]
  bool written;   // by this rank; others that have the same read it
};

/// What lies here of the slots, tensor by tensor of the model's files.
std::vector<OptimizerSlice> optimizer_slices(const TrainingEngine& engine);

/// Whether this rank is the one that writes a tensor of the model.
bool writes_tensor(const TrainingEngine& engine, const Parameter& parameter, const FileTensor& tensor);

/// A copy, in the host's memory, of what this rank writes to a checkpoint and steps change: values in fp32 and the
/// optimizer's slots. It stays as it is while steps go on.
class CheckpointSnapshot {
 public:
  /// Plans. The engine outlives it.
  explicit CheckpointSnapshot(const TrainingEngine& engine);

  int64_t bytes() const { return memory_.peak(); }
  /// Takes the memory, after the engine has taken its own.
  void allocate();
  /// Copies, between two steps; waits until it is done.
  void take();

  /// As ParameterList::values, when the copy was taken. What steps do not change is read where it lies.
  const float* values(const Parameter& parameter, const FileTensor& tensor, std::vector<float>& staged) const;
  /// The slices that this rank writes, where they lie in the copy.
  const std::vector<OptimizerSlice>& slices() const { return slices_; }

 private:
  void take_memory();

  const TrainingEngine& engine_;
  Arena memory_;
  std::map<std::string, Tensor> values_;  // by file tensor
  std::vector<OptimizerSlice> slices_;
  std::vector<std::pair<Tensor, Tensor>> copies_;  // to, from
};

/// Whether the run saves checkpoints that steps follow, and wants them written beside these.
bool wants_snapshot(const RunConfig& config);

}  // namespace deeptitan

#include "train/checkpoint_snapshot.h"

#include <algorithm>

#include "core/transfer.h"

namespace deeptitan {

std::vector<OptimizerSlice> optimizer_slices(const TrainingEngine& engine) {
  std::vector<OptimizerSlice> slices;
  for (const std::string& slot : engine.optimizer_slots()) {
    for (const Parameter& p : engine.model().parameters().all()) {
      if (!p.gradient.defined()) continue;
      const SlotPart part = engine.optimizer_slot(p, slot);
      for (const FileTensor& tensor : p.file_tensors()) {
        const int64_t begin = std::max(tensor.offset, part.begin);
        const int64_t end = std::min(tensor.offset + tensor.numel(), part.begin + part.memory.size(0));
        if (begin >= end) continue;
        slices.push_back({{slot, tensor.name, begin - tensor.offset, end - tensor.offset, part.memory.dtype()},
                          part.memory.rows(begin - part.begin, end - part.begin),
                          engine.answers_for(p) && engine.shards().answers_for(p.spec.placement)});
      }
    }
  }
  return slices;
}

bool writes_tensor(const TrainingEngine& engine, const Parameter& parameter, const FileTensor& tensor) {
  return engine.answers_for(parameter) && engine.shards().writes(engine.model().parameters(), parameter, tensor);
}

CheckpointSnapshot::CheckpointSnapshot(const TrainingEngine& engine)
    : engine_(engine), memory_("checkpoint snapshot", engine.options().device, MemoryKind::kPinned) {
  take_memory();
}

void CheckpointSnapshot::allocate() {
  memory_.allocate();
  take_memory();
}

void CheckpointSnapshot::take_memory() {
  values_.clear();
  slices_.clear();
  copies_.clear();
  for (const Parameter& p : engine_.model().parameters().all()) {
    if (!p.value.defined() || p.value.dtype() != DType::kF32) continue;
    const Tensor flat = p.value.reshape({p.numel()});
    for (const FileTensor& tensor : p.file_tensors()) {
      if (!writes_tensor(engine_, p, tensor)) continue;
      const Tensor copy = memory_.take(DType::kF32, {tensor.numel()});
      values_.emplace(tensor.name, copy);
      copies_.emplace_back(copy, flat.rows(tensor.offset, tensor.offset + tensor.numel()));
    }
  }
  for (OptimizerSlice& slice : optimizer_slices(engine_)) {
    if (!slice.written) continue;
    const Tensor copy = memory_.take(slice.memory.dtype(), {slice.memory.numel()});
    copies_.emplace_back(copy, slice.memory);
    slices_.push_back({std::move(slice.slice), copy, true});
  }
}

void CheckpointSnapshot::take() {
  for (const auto& [to, from] : copies_) copy_tensor(to, from);
}

const float* CheckpointSnapshot::values(const Parameter& parameter, const FileTensor& tensor,
                                        std::vector<float>& staged) const {
  const auto copy = values_.find(tensor.name);
  if (copy != values_.end()) return copy->second.host<float>();
  return engine_.model().parameters().values(parameter, tensor, staged);
}

bool wants_snapshot(const RunConfig& config) {
  const RunConfig::Checkpoint& c = config.checkpoint;
  return c.saving == CheckpointSaving::kBeside && c.interval > 0 && c.interval < config.training.steps;
}

}  // namespace deeptitan

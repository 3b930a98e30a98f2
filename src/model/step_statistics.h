#pragma once

#include <vector>

#include "core/arena.h"
#include "core/transfer.h"
#include "model/sublayer.h"

namespace deeptitan {

/// What the layers of one step leave behind besides gradients: balance losses and the experts' loads.
class StepStatistics final : public AuxiliarySink {
 public:
  explicit StepStatistics(int64_t layers) : balance_loss_(layers, 0.0), expert_load_(layers) {}

  /// Takes the memory of layer `layer`'s load; layers without experts have none.
  void plan_load(Arena& arena, int64_t layer, int64_t experts) {
    expert_load_[layer] = arena.take(DType::kI32, {experts});
  }

  /// At the start of each optimizer step.
  void reset() {
    for (double& loss : balance_loss_) loss = 0.0;
    for (const Tensor& load : expert_load_) {
      if (load.defined()) clear_tensor(load);
    }
  }

  double* balance_loss(int64_t layer) override { return &balance_loss_[layer]; }
  Tensor expert_load(int64_t layer) override { return expert_load_[layer]; }
  int64_t layers() const { return static_cast<int64_t>(expert_load_.size()); }

 private:
  std::vector<double> balance_loss_;  // summed over tokens, weighted
  std::vector<Tensor> expert_load_;   // i32 [E]
};

}  // namespace deeptitan

#pragma once

#include <vector>

#include "comm/communicator.h"
#include "core/arena.h"
#include "model/sublayer.h"
#include "ops/elementwise.h"
#include "ops/expert_load.h"

namespace deeptitan {

/// What the layers of one step leave behind besides gradients, where the ops run: balance losses, the experts' loads,
/// and the summary of them that the host reads.
class StepStatistics final : public AuxiliarySink {
 public:
  explicit StepStatistics(int64_t layers) : expert_load_(layers) {}

  /// Takes the memory of layer `layer`'s load; layers without experts have none.
  void plan_load(Arena& arena, int64_t layer, int64_t experts) {
    expert_load_[layer] = arena.take(DType::kI32, {experts});
  }
  /// Takes the memory of the balance losses and of the loads' summaries, once.
  void plan_report(Arena& arena) {
    balance_loss_ = arena.take(DType::kF64, {layers()});
    load_summary_ = arena.take(DType::kF64, {layers(), kLoadSummaryNumbers});
  }

  /// At the start of each optimizer step.
  void reset(ExecutionContext& ctx) {
    fill_zero(ctx, balance_loss_);
    fill_zero(ctx, load_summary_);
    for (const Tensor& load : expert_load_) {
      if (load.defined()) fill_zero(ctx, load);
    }
  }
  /// At its end, before they are summarised: what the ranks have counted together, and of each layer's loads those that
  /// hold it (nullptr: this one alone).
  void add_up(ExecutionContext& ctx, Communicator& world, Communicator* of_layers) const {
    world.all_reduce(ctx, balance_loss_);
    for (const Tensor& load : expert_load_) {
      if (load.defined() && of_layers != nullptr) of_layers->all_reduce(ctx, load);
    }
  }
  /// The load of layer `layer`, and the bias of its router (undefined: none).
  void summarise(ExecutionContext& ctx, int64_t layer, const Tensor& bias) {
    const Tensor summary = load_summary_.rows(layer, layer + 1).reshape({kLoadSummaryNumbers});
    summarise_expert_load(ctx, summary, expert_load_[layer], bias);
  }

  double* balance_loss(int64_t layer) override { return balance_loss_.raw<double>() + layer; }
  Tensor expert_load(int64_t layer) override { return expert_load_[layer]; }
  int64_t layers() const { return static_cast<int64_t>(expert_load_.size()); }
  const Tensor& balance_losses() const { return balance_loss_; }
  const Tensor& load_summaries() const { return load_summary_; }

 private:
  Tensor balance_loss_;              // f64 [layers]: summed over tokens, weighted
  Tensor load_summary_;              // f64 [layers, kLoadSummaryNumbers]
  std::vector<Tensor> expert_load_;  // i32 [E]
};

}  // namespace deeptitan

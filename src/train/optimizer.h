#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "config/run_config.h"
#include "core/arena.h"
#include "core/execution_context.h"
#include "core/tensor.h"
#include "model/parameter.h"
#include "ops/optimizer.h"
#include "parallel/bucket_shards.h"

namespace deeptitan {

/// What is updated at once: contiguous, the same elements of each tensor; fp32 but for the slots.
struct OptimizerPiece {
  Tensor value;
  Tensor gradient;
  std::vector<Tensor> slots;  // in the order of Optimizer::slots()
  Tensor rounded = {};        // bf16: becomes the new value; only where the optimizer writes_rounded()
  double weight_decay = 0;
  RoundingPlace place = {};  // kParameterRange: which elements of which parameter it has
};

/// An update rule. What it keeps for each element of a parameter it declares by name; the memory is OptimizerState's,
/// and checkpoints know the slots by these names.
class Optimizer {
 public:
  enum class Unit {
    kRange,           // a range of a bucket, [n]: each element is updated by itself
    kParameterRange,  // the same of one parameter, which the piece names
    kMatrix,          // a matrix [rows, columns] of a parameter, one an expert; vectors as [n]
  };
  virtual ~Optimizer() = default;
  virtual const std::vector<std::string>& slots() const = 0;
  /// The element type of the slots: f32 or bf16.
  virtual DType slot_dtype() const { return DType::kF32; }
  virtual Unit unit() const { return Unit::kRange; }
  /// Whether an update can leave the new values in bf16 too, as products want them. Not of whole matrices.
  virtual bool writes_rounded() const { return false; }
  /// Does nothing where the step state says that the step is not valid.
  virtual void update(ExecutionContext& ctx, const OptimizerPiece& piece) const = 0;
};

/// The one that [optimizer] names.
std::unique_ptr<Optimizer> make_optimizer(const RunConfig::Optimizer& optimizer);

/// Moments in bf16 are rounded at random, by the parameter's name and the element's place in the whole: the same bits
/// whatever ranks keep what.
class AdamW final : public Optimizer {
 public:
  explicit AdamW(const AdamWSettings& settings, DType moments = DType::kF32) : settings_(settings), moments_(moments) {}
  const std::vector<std::string>& slots() const override;
  DType slot_dtype() const override { return moments_; }
  Unit unit() const override { return moments_ == DType::kF32 ? Unit::kRange : Unit::kParameterRange; }
  bool writes_rounded() const override { return true; }
  void update(ExecutionContext& ctx, const OptimizerPiece& piece) const override;

 private:
  AdamWSettings settings_;
  DType moments_;
};

/// What of a parameter's slot lies here: the elements from `begin` on, of those of the parameter that lie here.
struct SlotPart {
  int64_t begin = 0;
  Tensor memory;  // [n], of Optimizer::slot_dtype(); undefined where the parameter is not trained
};

/// The memory of an optimizer's slots, one piece a bucket and slot, and the update of what this rank keeps of all
/// trained parameters.
class OptimizerState {
 public:
  OptimizerState(std::unique_ptr<Optimizer> optimizer, double weight_decay)
      : optimizer_(std::move(optimizer)), weight_decay_(weight_decay) {}

  const Optimizer& optimizer() const { return *optimizer_; }
  /// Takes the slots' memory, for this rank's parts of the list's buckets.
  void plan(const ParameterList& parameters, const BucketShards& shards, Arena& arena);
  /// Calls `updated` after each bucket.
  void update(
      ExecutionContext& ctx, const ParameterList& parameters,
      const std::function<void(const ParameterBucket&)>& updated = [](const ParameterBucket&) {}) const;
  /// Whether update() leaves the parameter's rows_in_order as its new values are, because all of it is kept here: they
  /// need no preparing.
  bool writes_rows_of(const ParameterList& parameters, const Parameter& parameter) const;
  /// What of a parameter's slot lies here. Throws for a name that the optimizer has not.
  SlotPart slot(const ParameterList& parameters, const Parameter& parameter, std::string_view name) const;

 private:
  // What an update of the bucket writes beside the parameter's master; undefined: nothing.
  Tensor rows_to_write(const ParameterList& parameters, size_t bucket, const Parameter& parameter) const;
  void update_bucket(ExecutionContext& ctx, const ParameterList& parameters, size_t bucket) const;
  void update_parameters(ExecutionContext& ctx, const ParameterList& parameters, size_t bucket,
                         const OptimizerPiece& part) const;
  void update_matrices(ExecutionContext& ctx, const ParameterList& parameters, const ParameterBucket& bucket,
                       const OptimizerPiece& whole) const;

  std::unique_ptr<Optimizer> optimizer_;
  double weight_decay_;
  std::vector<BucketPart> parts_;           // by bucket: the elements that are kept here
  std::vector<std::vector<Tensor>> slots_;  // [bucket][slot]: [elements of the part]
};

}  // namespace deeptitan

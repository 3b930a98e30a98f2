#include "train/optimizer.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

// Takes a hundredth of the gradient and counts in its slot; writes down what it was asked to update.
class Counting final : public Optimizer {
 public:
  Counting(Unit unit, std::vector<std::string>* seen) : unit_(unit), seen_(seen) {}
  const std::vector<std::string>& slots() const override { return slots_; }
  Unit unit() const override { return unit_; }
  void update(ExecutionContext& /*ctx*/, const OptimizerPiece& piece) const override {
    seen_->push_back(piece.value.describe() + (piece.weight_decay > 0 ? " decays" : ""));
    for (int64_t i = 0; i < piece.value.numel(); ++i) {
      piece.value.host<float>()[i] -= 0.01f * piece.gradient.host<float>()[i];
      piece.slots[0].host<float>()[i] += 1;
    }
  }

 private:
  std::vector<std::string> slots_ = {"count"};
  Unit unit_;
  std::vector<std::string>* seen_;
};

struct Trained {
  ParameterList list{/*training=*/true, DType::kF32};
  std::vector<std::string> seen;
  OptimizerState state;
  Arena values{"values"}, gradients{"gradients"}, slots{"slots"};

  explicit Trained(Optimizer::Unit unit) : state(std::make_unique<Counting>(unit, &seen), 0.1) {
    ParameterSpec experts{.name = "experts.{}.gate_up", .shape = {2, 5, 3}};
    experts.pieces = {{"experts.{}.gate", 2}, {"experts.{}.up", 3}};
    list.declare(experts);
    list.declare({.name = "norm", .shape = {4}, .weight_decay = false, .direct = true});
    list.declare({.name = "bias", .shape = {4}, .trained = false, .direct = true});
    for (int pass = 0; pass < 2; ++pass) {
      list.plan_values(values);
      list.plan_gradients(gradients);
      state.plan(list, BucketShards(), slots);
      if (pass == 0) values.allocate(), gradients.allocate(), slots.allocate();
    }
    for (const ParameterBucket& bucket : list.buckets()) {
      for (int64_t i = 0; i < bucket.numel; ++i) bucket.gradient.host<float>()[i] = static_cast<float>(i);
    }
  }
};

TEST(OptimizerState, UpdatesEveryElementOfTheBucketsOnce) {
  ExecutionContext ctx;
  for (const auto unit : {Optimizer::Unit::kRange, Optimizer::Unit::kMatrix}) {
    Trained t(unit);
    t.state.update(ctx, t.list);
    for (const Parameter& p : t.list.all()) {
      const Tensor count = t.state.slot(t.list, p, "count").memory;
      EXPECT_EQ(count.defined(), p.spec.trained) << p.spec.name;
      for (int64_t i = 0; count.defined() && i < p.numel(); ++i) {
        EXPECT_EQ(count.host<float>()[i], 1.0f) << p.spec.name << " " << i;
        EXPECT_EQ(p.value.host<float>()[i], -0.01f * p.gradient.host<float>()[i]) << p.spec.name << " " << i;
      }
    }
  }
}

TEST(OptimizerState, AnOptimizerMayAskForRangesOrForMatrices) {
  ExecutionContext ctx;
  Trained ranges(Optimizer::Unit::kRange);
  ranges.state.update(ctx, ranges.list);
  EXPECT_EQ(ranges.seen, (std::vector<std::string>{"f32 [4]", "f32 [30] decays"}));
  Trained matrices(Optimizer::Unit::kMatrix);
  matrices.state.update(ctx, matrices.list);
  EXPECT_EQ(matrices.seen, (std::vector<std::string>{"f32 [4]", "f32 [2, 3] decays", "f32 [3, 3] decays",
                                                     "f32 [2, 3] decays", "f32 [3, 3] decays"}));
}

TEST(OptimizerState, ASlotIsKnownByItsName) {
  Trained t(Optimizer::Unit::kRange);
  EXPECT_EQ(AdamW({}).slots(), (std::vector<std::string>{"first_moment", "second_moment"}));
  EXPECT_EQ(make_optimizer({})->slots(), AdamW({}).slots());
  expect_runtime_error([&] { t.state.slot(t.list, t.list.all().front(), "momentum"); },
                       "the optimizer has no slot momentum; it has count");
}

}  // namespace
}  // namespace deeptitan

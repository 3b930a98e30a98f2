#include "train/optimizer.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/random.h"
#include "support/expect_error.h"
#include "support/rank_layout.h"

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

TEST(OptimizerState, MomentsOfAdamWTakeTheMemoryOfTheirType) {
  RunConfig::Optimizer settings;
  EXPECT_EQ(make_optimizer(settings)->slot_dtype(), DType::kF32);
  EXPECT_EQ(make_optimizer(settings)->unit(), Optimizer::Unit::kRange);
  settings.moments_dtype = MomentsDtype::kBf16;
  EXPECT_EQ(make_optimizer(settings)->slot_dtype(), DType::kBF16);
  EXPECT_EQ(make_optimizer(settings)->unit(), Optimizer::Unit::kParameterRange);
}

// The moments and values of each parameter, by name and place in the whole, in hexadecimal.
using Elements = std::map<std::pair<std::string, int64_t>, std::string>;

// Two steps of AdamW with moments in bf16 by every rank of a mesh, each with the gradients of what it keeps; ranks of
// `ep` have an expert each.
Elements updated_on(const Mesh& mesh) {
  std::vector<Elements> of_rank(mesh.world());
  testing::run_on_mesh(mesh, [&](const RankGroups& groups) {
    ParameterList list(/*training=*/true, DType::kF32,
                       ranks_in(groups.ep) == 1 ? ExpertRange() : ExpertRange{rank_in(groups.ep), 1});
    ParameterSpec experts{.name = "experts.{}.gate_up", .shape = {2, 50, 30}};
    experts.pieces = {{"experts.{}.gate", 20}, {"experts.{}.up", 30}};
    experts.placement = ParameterPlacement::kExpert;
    list.declare(experts);
    list.declare({.name = "norm", .shape = {5}, .weight_decay = false, .direct = true});
    list.declare({.name = "table", .shape = {300, 7}});
    list.declare({.name = "router", .shape = {41, 11}});
    const BucketShards shards(groups);
    OptimizerState state(std::make_unique<AdamW>(AdamWSettings(), DType::kBF16), 0.1);
    Arena values("values"), gradients("gradients"), slots("slots");
    for (int pass = 0; pass < 2; ++pass) {
      list.plan_values(values);
      for (size_t b = 0; b < list.buckets().size(); ++b) {
        const ParameterBucket& bucket = list.buckets()[b];
        const Tensor whole = gradients.take(DType::kF32, {bucket.numel});
        const BucketPart part = shards.part(bucket);
        list.bind_gradient(b, whole, whole.rows(part.begin, part.end));
      }
      state.plan(list, shards, slots);
      if (pass == 0) values.allocate(), gradients.allocate(), slots.allocate();
    }
    StepState step;
    step.in.learning_rate = 0.01;
    ExecutionContext ctx;
    ctx.state = &step;
    for (step.out.updates = 1; step.out.updates <= 2; ++step.out.updates) {
      for (const Parameter& p : list.all()) {
        for (int64_t i = 0; i < p.numel(); ++i) {
          p.gradient.host<float>()[i] =
              random_normal(random_key(p.spec.name, static_cast<uint64_t>(step.out.updates)), p.first_in_whole() + i);
        }
      }
      state.update(ctx, list);
    }
    for (const Parameter& p : list.all()) {
      const SlotPart m = state.slot(list, p, "first_moment"), v = state.slot(list, p, "second_moment");
      for (int64_t i = 0; i < m.memory.size(0); ++i) {
        of_rank[rank_in(groups.world)][{p.spec.name, p.first_in_whole() + m.begin + i}] =
            fmt::format("{:04x} {:04x} {:a}", m.memory.host<bfloat16>()[i].bits, v.memory.host<bfloat16>()[i].bits,
                        p.value.host<float>()[m.begin + i]);
      }
    }
  });
  Elements all;
  for (const Elements& of_one : of_rank) {
    for (const auto& [place, element] : of_one) {
      const auto [at, is_new] = all.emplace(place, element);
      EXPECT_EQ(at->second, element) << place.first << " " << place.second << ", which several ranks keep";
    }
  }
  return all;
}

TEST(OptimizerState, MomentsAreRoundedAlikeWhateverRanksKeepThem) {
  const Elements one = updated_on({});
  EXPECT_EQ(one.size(), 2 * 50 * 30 + 5 + 300 * 7 + 41 * 11);
  for (const Mesh& mesh : {Mesh{.dp_shard = 2}, Mesh{.dp_shard = 3}, Mesh{.dp_shard = 7}, Mesh{.dp_replicate = 2},
                           Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2}}) {
    EXPECT_TRUE(updated_on(mesh) == one) << mesh.describe();
  }
}

}  // namespace
}  // namespace deeptitan

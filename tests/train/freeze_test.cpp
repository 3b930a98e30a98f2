#include "train/freeze.h"

#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "core/file.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::random_batch;
using testing::tiny_v3;

constexpr int64_t kSequenceLength = 21;

TrainingEngineOptions options(std::vector<std::string> freeze) {
  TrainingEngineOptions o;
  o.seq_len = kSequenceLength;
  o.sequences = 2;
  o.router_bias_update_speed = 0.1;
  o.max_norm = 0;
  o.freeze = std::move(freeze);
  return o;
}

/// The parameters that an engine with these patterns does not train.
std::vector<std::string> frozen_by(std::vector<std::string> patterns) {
  TrainingEngine engine(tiny_v3(), options(std::move(patterns)));
  std::vector<std::string> names;
  for (const Parameter& p : engine.model().parameters().all()) {
    if (p.frozen) names.push_back(p.spec.name);
  }
  return names;
}

using Values = std::map<std::string, std::vector<float>>;

Values values_of(TrainingEngine& engine) {
  Values values;
  std::vector<float> staged;
  for (const Parameter& p : engine.model().parameters().all()) {
    for (const FileTensor& tensor : p.file_tensors()) {
      const float* first = engine.model().parameters().values(p, tensor, staged);
      values[p.spec.name].insert(values[p.spec.name].end(), first, first + tensor.numel());
    }
  }
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Freeze, PatternsAreOfTheNamesInACheckpoint) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(frozen_by({}), Names{});
  EXPECT_EQ(frozen_by({"model.embed_tokens.weight"}), Names{"model.embed_tokens.weight"});
  EXPECT_EQ(frozen_by({"model.layers.*.mlp.gate.*"}),
            (Names{"model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias",
                   "model.layers.2.mlp.gate.weight", "model.layers.2.mlp.gate.e_score_correction_bias",
                   "model.layers.3.mlp.gate.weight", "model.layers.3.mlp.gate.e_score_correction_bias"}));
  EXPECT_EQ(frozen_by({"*.[12].mlp.experts.*.down_proj.weight", "lm_head.?eight"}),
            (Names{"model.layers.1.mlp.experts.{}.down_proj.weight", "model.layers.2.mlp.experts.{}.down_proj.weight",
                   "lm_head.weight"}));
}

TEST(Freeze, RanksThatOwnOtherExpertsDecideAlike) {
  for (const int64_t first : {0, 2, 4}) {
    ParameterList list(/*training=*/true, DType::kF32, {first, 2});
    list.declare({.name = "experts.{}.up", .shape = {6, 3, 4}});
    list.declare({.name = "dense", .shape = {3, 4}});
    expect_usage_error(
        [&] { freeze_parameters(list, std::vector<std::string>{"experts.[0-3].up"}); },
        "training.freeze: 'experts.[0-3].up' matches 4 of the 6 experts of experts.{}.up; the experts of "
        "a layer are frozen together: use experts.*.up");
    freeze_parameters(list, std::vector<std::string>{"experts.*"});
    EXPECT_TRUE(list.all().front().frozen);
  }
}

TEST(Freeze, TheTensorsOfOneProductAreFrozenTogether) {
  EXPECT_EQ(frozen_by({"model.layers.0.mlp.up_proj.weight", "*.0.mlp.gate_proj.weight"}),
            std::vector<std::string>{"model.layers.0.mlp.gate_up_proj.weight"});
  expect_usage_error([&] { frozen_by({"*.[12].mlp.experts.*.up_proj.weight"}); },
                     "training.freeze matches model.layers.1.mlp.experts.{}.up_proj.weight and not "
                     "model.layers.1.mlp.experts.{}.gate_proj.weight; they are one product and are frozen together: "
                     "name both, or neither");
}

TEST(Freeze, FrozenValuesKeepTheirBitsAndTheOthersMove) {
  const ModelConfig config = tiny_v3();
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    TrainingEngineOptions o = options({"model.embed_tokens.weight", "model.layers.*.mlp.gate.*", "model.layers.0.*",
                                       "model.layers.2.mlp.experts.*", "*norm.weight"});
    o.compute = compute;
    TrainingEngine engine(config, o);
    engine.allocate();
    engine.initialize(7);
    const Values before = values_of(engine);
    for (int64_t step = 1; step <= 3; ++step) {
      const PackedBatch batch = random_batch(config, 2, kSequenceLength, static_cast<uint64_t>(step));
      engine.begin_step(step, 1e-2, batch.target_count, 1);
      engine.add_microbatch(batch);
      engine.finish_step();
    }
    const Values after = values_of(engine);
    for (const Parameter& p : engine.model().parameters().all()) {
      const std::string& name = p.spec.name;
      EXPECT_EQ(same_bits(before.at(name), after.at(name)), p.frozen) << name;
    }
  }
}

TEST(Freeze, TheOthersGetTheSameGradientsAndTheNormIsTheirs) {
  const ModelConfig config = tiny_v3();
  const PackedBatch batch = random_batch(config, 2, kSequenceLength, 3);
  const auto step = [&](TrainingEngine& engine) {
    engine.allocate();
    engine.initialize(7);
    engine.begin_step(1, 0.0, batch.target_count, 1);
    engine.add_microbatch(batch);
    return engine.finish_step();
  };
  TrainingEngine whole(config, options({})), part(config, options({"model.layers.*.self_attn.*", "lm_head.weight"}));
  const StepResult of_whole = step(whole), of_part = step(part);
  EXPECT_EQ(of_whole.loss, of_part.loss);
  double squares = 0;
  const auto& all = whole.model().parameters().all();
  for (size_t i = 0; i < all.size(); ++i) {
    const Parameter& other = part.model().parameters().all()[i];
    if (!all[i].gradient.defined()) continue;
    EXPECT_EQ(other.gradient.defined(), !other.frozen) << other.spec.name;
    if (other.frozen) continue;
    EXPECT_EQ(std::memcmp(all[i].gradient.raw(), other.gradient.raw(), all[i].gradient.bytes()), 0) << all[i].spec.name;
    for (int64_t e = 0; e < all[i].numel(); ++e) {
      const double g = all[i].gradient.host<float>()[e];
      squares += g * g;
    }
  }
  EXPECT_NEAR(of_part.gradient_norm, std::sqrt(squares), 1e-5 * std::sqrt(squares));
  EXPECT_GT(of_whole.gradient_norm, 1.01 * of_part.gradient_norm);
}

TEST(Freeze, FrozenParametersCostNoGradientAndNoMoments) {
  const auto bytes = [](const TrainingEngine& engine, const std::string& arena) {
    for (const PlannedArena& a : engine.plan().arenas) {
      if (a.name == arena) return a.bytes;
    }
    return int64_t{-1};
  };
  const ModelConfig config = tiny_v3();
  TrainingEngine whole(config, options({})), part(config, options({"model.layers.*.mlp.experts.*", "*_bias"}));
  int64_t experts = 0;
  int64_t biases = 0;
  for (const Parameter& p : part.model().parameters().all()) {
    if (p.frozen) (p.spec.trained ? experts : biases) += p.numel();
  }
  EXPECT_EQ(experts, 3 * 3 * 8 * 18 * 24);
  EXPECT_EQ(count_frozen(part.model().parameters()), experts + biases);
  // Nine tensors, each of which begins at a multiple of 64 bytes.
  const int64_t padding = 9 * 64;
  EXPECT_NEAR(bytes(whole, "gradients") - bytes(part, "gradients"), 4 * experts, padding);
  EXPECT_NEAR(bytes(whole, "optimizer") - bytes(part, "optimizer"), 8 * experts, 2 * padding);
  EXPECT_NEAR(bytes(whole, "parameters") - bytes(part, "parameters"), 4 * experts, padding);
  EXPECT_LT(bytes(part, "prepared weights"), bytes(whole, "prepared weights"));
}

// DeepSeek-V2-Lite's 15.7 billion parameters, of which 14.4 are routed experts.
TEST(Freeze, V2LiteWithFrozenExpertsFitsIn52GB) {
  TrainingEngineOptions o;
  o.compute = DType::kBF16;
  o.seq_len = 64;
  o.sequences = 1;
  o.recomputation = Recomputation::kLayers;
  o.freeze = {"model.layers.*.mlp.experts.*"};
  const TrainingEngine engine(named_model_config("v2-lite"), o);
  int64_t weights = 0;
  for (const PlannedArena& arena : engine.plan().arenas) {
    for (const char* of_weights : {"parameters", "gradients", "optimizer", "prepared weights"}) {
      if (arena.name == of_weights) weights += arena.bytes;
    }
  }
  EXPECT_LE(weights, 52'000'000'000) << format_bytes(weights);
  EXPECT_LE(engine.plan().total() - weights, 2'000'000'000) << format_bytes(engine.plan().total());
}

TEST(Freeze, MistakesAreNamedBeforeAnythingIsAllocated) {
  const auto expect = [](std::vector<std::string> patterns, const std::string& message) {
    expect_usage_error([&] { TrainingEngine engine(tiny_v3(), options(patterns)); }, message);
  };
  expect({"lm_head.weight", "model.layers.*.mlp.gat.weight"},
         "training.freeze: 'model.layers.*.mlp.gat.weight' matches no parameter; the nearest names are "
         "model.layers.*.mlp.gate.weight, model.layers.*.mlp.gate_proj.weight, model.layers.*.eh_proj.weight "
         "(deeptitan inspect lists all)");
  expect({"model.layers.1.mlp.experts.3.*"},
         "training.freeze: 'model.layers.1.mlp.experts.3.*' matches 1 of the 8 experts of "
         "model.layers.1.mlp.experts.{}.gate_proj.weight; the experts of a layer are frozen together: use "
         "model.layers.*.mlp.experts.*.gate_proj.weight");
  expect({"*"}, "training.freeze leaves nothing to train");
}

}  // namespace
}  // namespace deeptitan

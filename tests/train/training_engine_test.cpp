#include "train/training_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/tiny_model.h"
#include "train/drawn_engine.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::random_batch;
using testing::tiny_v2;
using testing::tiny_v3;

constexpr int64_t kLength = 21;

TrainingEngineOptions engine_options(DType compute = DType::kF32) {
  TrainingEngineOptions o;
  o.compute = compute;
  o.seq_len = kLength;
  o.sequences = 2;
  o.auxiliary_weight = 0.01;
  o.max_norm = 0;
  return o;
}

// The loss that the gradients are of: main, next-token prediction and balance, each with its weight.
double total_loss(TrainingEngine& engine, const PackedBatch& batch) {
  engine.begin_step(1, 0.0, batch.target_count, 1);  // learning rate 0: the weights stay
  engine.add_microbatch(batch);
  const StepResult r = engine.finish_step();
  double loss = r.loss + engine.options().mtp_weight * r.mtp_loss;
  for (const MoeLayerMetrics& layer : r.moe_layers) loss += engine.options().auxiliary_weight * layer.aux_loss;
  return loss;
}

// The gradient of every parameter along a random direction against a central difference of the whole training loss.
// fp32 losses resolve about 1e-6; the step is chosen so that the loss moves by about 4e-3.
void expect_gradients(const ModelConfig& config) {
  TrainingEngineOptions options = engine_options();
  options.weight_decay = 0;
  options.router_bias_update_speed = 0;
  const auto engine = drawn_engine(config, options);
  const PackedBatch batch = random_batch(config, 2, kLength, 3);
  // The choice of experts is not differentiable: it is recorded once and held.
  RouteRecord routes;
  std::vector<std::vector<int32_t>> chosen(engine->model().total_layers());
  routes.expert_index.resize(chosen.size());
  for (const auto& [layer, experts] : engine->model().expert_layers()) {
    chosen[layer].resize(2 * kLength * experts->router().top_k);
    routes.expert_index[layer] = Tensor(chosen[layer].data(), DType::kI32, {2 * kLength, experts->router().top_k});
  }
  engine->set_routes(&routes);
  total_loss(*engine, batch);
  routes.replay = true;
  total_loss(*engine, batch);
  std::vector<std::vector<float>> gradients;
  for (const Parameter& p : engine->model().parameters().all()) {
    if (!p.gradient.defined()) {
      gradients.emplace_back();
      continue;
    }
    gradients.emplace_back(p.gradient.host<float>(), p.gradient.host<float>() + p.numel());
  }
  size_t index = 0;
  for (Parameter& p : engine->model().parameters().all()) {
    const std::vector<float>& gradient = gradients[index++];
    if (gradient.empty()) continue;
    const auto noise = testing::random_normal<float>(p.numel(), static_cast<uint32_t>(index));
    double norm = 0;
    for (const float g : gradient) norm += static_cast<double>(g) * g;
    ASSERT_GT(norm, 0) << p.spec.name;
    // A direction between the gradient and noise: long enough a derivative, yet every element counts.
    std::vector<double> direction(gradient.size());
    double slope = 0;
    double noise_norm = 0;
    for (const float n : noise) noise_norm += static_cast<double>(n) * n;
    for (size_t i = 0; i < gradient.size(); ++i) {
      direction[i] = gradient[i] / std::sqrt(norm) + 0.5 * noise[i] / std::sqrt(noise_norm);
      slope += direction[i] * gradient[i];
    }
    const double step = std::min(0.02, 2e-3 / std::abs(slope));
    const std::vector<float> saved(p.value.host<float>(), p.value.host<float>() + p.numel());
    const auto loss_at = [&](double t) {
      for (size_t i = 0; i < saved.size(); ++i)
        p.value.host<float>()[i] = static_cast<float>(saved[i] + t * direction[i]);
      engine->refresh();
      return total_loss(*engine, batch);
    };
    const double difference = (loss_at(step) - loss_at(-step)) / (2 * step);
    loss_at(0);
    EXPECT_NEAR(slope, difference, 0.015 * std::abs(slope) + 1e-4) << p.spec.name;
  }
}

TEST(TrainingEngine, GradientsOfAV3EqualCentralDifferences) {
  expect_gradients(tiny_v3());
}
TEST(TrainingEngine, GradientsOfAV2EqualCentralDifferences) {
  expect_gradients(tiny_v2());
}

std::vector<float> all_gradients(TrainingEngine& engine) {
  std::vector<float> result;
  for (const Parameter& p : engine.model().parameters().all()) {
    if (p.gradient.defined())
      result.insert(result.end(), p.gradient.host<float>(), p.gradient.host<float>() + p.numel());
  }
  return result;
}

// The mean loss of the last of 100 steps over eight batches, which a model of a few thousand parameters learns in part.
double loss_after_100_steps(MomentsDtype moments, uint64_t seed) {
  const ModelConfig config = tiny_v3();
  TrainingEngineOptions options = engine_options();
  options.optimizer.moments_dtype = moments;
  TrainingEngine engine(config, options);
  engine.allocate();
  engine.initialize(seed);
  double last = 0;
  for (int64_t step = 1; step <= 100; ++step) {
    const PackedBatch batch = random_batch(config, 2, kLength, static_cast<uint64_t>(step % 8));
    engine.begin_step(step, 3e-3, batch.target_count, 1);
    engine.add_microbatch(batch);
    const double loss = engine.finish_step().loss;
    if (step > 92) last += loss / 8;
  }
  return last;
}

// So few steps end several hundredths apart where anything is a little different, a learning rate by a thousandth too:
// what is compared is the mean over seeds, with what the seeds make.
TEST(TrainingEngine, MomentsInBf16LearnAsMuch) {
  std::vector<double> wide, narrow;
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    wide.push_back(loss_after_100_steps(MomentsDtype::kFp32, seed));
    narrow.push_back(loss_after_100_steps(MomentsDtype::kBf16, seed));
  }
  const auto mean = [](const std::vector<double>& losses) {
    return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
  };
  const auto [least, most] = std::minmax_element(wide.begin(), wide.end());
  EXPECT_LT(*most, 0.5 * std::log(70.0)) << "nothing was learnt";
  EXPECT_NE(narrow, wide);
  EXPECT_NEAR(mean(narrow), mean(wide), 0.5 * (*most - *least));
  RecordProperty("losses", fmt::format("fp32 {:.4f}, bf16 {:.4f}", fmt::join(wide, " "), fmt::join(narrow, " ")));
}

TEST(TrainingEngine, MomentsInBf16TakeHalfTheMemory) {
  const auto optimizer_bytes = [](MomentsDtype moments) {
    TrainingEngineOptions options = engine_options();
    options.optimizer.moments_dtype = moments;
    const TrainingEngine engine(tiny_v3(), options);
    for (const PlannedArena& arena : engine.plan().arenas) {
      if (arena.name == "optimizer") return arena.bytes;
    }
    return int64_t{0};
  };
  const int64_t wide = optimizer_bytes(MomentsDtype::kFp32), narrow = optimizer_bytes(MomentsDtype::kBf16);
  EXPECT_NEAR(static_cast<double>(narrow), 0.5 * static_cast<double>(wide), 64 * 8) << "but for what aligns pieces";
}

TEST(TrainingEngine, WhatIsRecomputedHasTheSameBits) {
  for (const ModelConfig& config : {tiny_v3(), tiny_v2()}) {
    const PackedBatch batch = random_batch(config, 2, kLength, 3);
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      TrainingEngineOptions options = engine_options(compute);
      const auto kept = drawn_engine(config, options);
      const double loss = total_loss(*kept, batch);
      int64_t before = kept->plan().total();
      for (const Recomputation what : {Recomputation::kCheap, Recomputation::kLayers}) {
        options.recomputation = what;
        const auto recomputed = drawn_engine(config, options);
        EXPECT_LT(recomputed->plan().total(), before);
        before = recomputed->plan().total();
        EXPECT_EQ(total_loss(*recomputed, batch), loss);
        EXPECT_EQ(all_gradients(*recomputed), all_gradients(*kept));
      }
    }
  }
}

// What is planned less is what the layers have of it, but for the one that has most.
TEST(TrainingEngine, WhatIsCheapIsPlannedOnce) {
  ModelConfig c = tiny_v3();
  c.num_nextn_predict_layers = 0;
  c.num_hidden_layers = 5;  // one is dense
  TrainingEngineOptions options = engine_options();
  const int64_t kept = TrainingEngine(c, options).plan().total();
  options.recomputation = Recomputation::kCheap;
  const MemoryPlan plan = TrainingEngine(c, options).plan();
  const int64_t tokens = 2 * kLength;
  const int64_t of_each = tokens * (2 * c.hidden_size + c.q_lora_rank + c.kv_lora_rank);
  const int64_t dense = of_each + tokens * c.intermediate_size;
  const int64_t experts =
      of_each + tokens * (c.num_experts_per_tok * (c.hidden_size + c.moe_intermediate_size) + c.moe_intermediate_size);
  const int64_t saved = 4 * (dense + 4 * experts - std::max(dense, experts));
  EXPECT_NEAR(static_cast<double>(kept - plan.total()), static_cast<double>(saved), 64 * 7 * 5)
      << "but for what aligns pieces";
}

TEST(TrainingEngine, TwoMicrobatchesEqualOneOfTwiceTheSize) {
  const ModelConfig config = tiny_v3();
  const PackedBatch whole = random_batch(config, 4, kLength, 5);
  TrainingEngineOptions options = engine_options();
  options.sequences = 4;
  const auto one = drawn_engine(config, options);
  one->begin_step(1, 0.0, whole.target_count, 1);
  one->add_microbatch(whole);
  const StepResult expected = one->finish_step();

  const auto half = [&](int64_t first) {
    PackedBatch b;
    b.sequences = 2;
    b.sequence_length = kLength;
    b.tokens.assign(whole.tokens.begin() + first * kLength, whole.tokens.begin() + (first + 2) * kLength);
    b.targets.assign(whole.targets.begin() + first * kLength, whole.targets.begin() + (first + 2) * kLength);
    b.positions.assign(whole.positions.begin() + first * kLength, whole.positions.begin() + (first + 2) * kLength);
    for (const int32_t offset : whole.document_offsets) {
      if (offset >= first * kLength && offset <= (first + 2) * kLength) {
        b.document_offsets.push_back(static_cast<int32_t>(offset - first * kLength));
      }
    }
    return b;
  };
  options.sequences = 2;
  const auto two = drawn_engine(config, options);
  two->begin_step(1, 0.0, whole.target_count, 2);
  two->add_microbatch(half(0));
  two->add_microbatch(half(2));
  const StepResult got = two->finish_step();
  EXPECT_NEAR(got.loss, expected.loss, 1e-6);
  EXPECT_NEAR(got.mtp_loss, expected.mtp_loss, 1e-6);
  // fp32 sums over tokens in another grouping.
  EXPECT_LT(testing::relative_error(all_gradients(*two), all_gradients(*one)), 1e-6);
  ASSERT_EQ(got.moe_layers.size(), expected.moe_layers.size());
  for (size_t i = 0; i < got.moe_layers.size(); ++i) {
    EXPECT_EQ(got.moe_layers[i].load_max_over_mean, expected.moe_layers[i].load_max_over_mean);
    EXPECT_NEAR(got.moe_layers[i].aux_loss, expected.moe_layers[i].aux_loss, 1e-5);
  }
}

TEST(TrainingEngine, PackedDocumentsEqualPaddedOnes) {
  const ModelConfig config = tiny_v2();
  const PackedBatch packed = random_batch(config, 2, kLength, 9);
  const auto documents = static_cast<int64_t>(packed.document_offsets.size()) - 1;
  TrainingEngineOptions options = engine_options();
  options.auxiliary_weight = 0;  // it balances whole sequences, which padding changes
  const auto engine = drawn_engine(config, options);
  engine->begin_step(1, 0.0, packed.target_count, 1);
  engine->add_microbatch(packed);
  const double expected = engine->finish_step().loss;

  PackedBatch padded;
  padded.sequences = documents;
  padded.sequence_length = kLength;
  padded.tokens.assign(documents * kLength, 1);
  padded.targets.assign(documents * kLength, -1);
  for (int64_t d = 0; d < documents; ++d) {
    const int64_t first = packed.document_offsets[d];
    const int64_t length = packed.document_offsets[d + 1] - first;
    padded.document_offsets.push_back(static_cast<int32_t>(d * kLength));
    for (int64_t t = 0; t < kLength; ++t) {
      padded.positions.push_back(static_cast<int32_t>(t));
      if (t >= length) continue;
      padded.tokens[d * kLength + t] = packed.tokens[first + t];
      padded.targets[d * kLength + t] = packed.targets[first + t];
    }
  }
  padded.document_offsets.push_back(static_cast<int32_t>(documents * kLength));
  options.sequences = documents;
  const auto wide = drawn_engine(config, options);
  wide->begin_step(1, 0.0, packed.target_count, 1);
  wide->add_microbatch(padded);
  EXPECT_NEAR(wide->finish_step().loss, expected, 1e-6);
  EXPECT_LT(testing::relative_error(all_gradients(*wide), all_gradients(*engine)), 2e-6);
}

TEST(TrainingEngine, SameSeedSameBitsAndTheLossFalls) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const PackedBatch batch = random_batch(tiny_v3(), 2, kLength, 3);
    std::vector<double> curves[2];
    for (auto& curve : curves) {
      const auto engine = drawn_engine(tiny_v3(), engine_options(compute));
      for (int64_t step = 1; step <= 30; ++step) {
        engine->begin_step(step, 0.01, batch.target_count, 1);
        engine->add_microbatch(batch);
        curve.push_back(engine->finish_step().loss);
      }
    }
    EXPECT_EQ(curves[0], curves[1]);
    EXPECT_LT(curves[0].back(), 0.5 * curves[0].front());
  }
}

TEST(TrainingEngine, AStepThatIsNotFiniteChangesNothing) {
  const auto engine = drawn_engine(tiny_v3(), engine_options());
  const PackedBatch batch = random_batch(tiny_v3(), 2, kLength, 3);
  Parameter* broken = engine->model().parameters().find("model.layers.1.mlp.shared_experts.gate_up_proj.weight");
  ASSERT_NE(broken, nullptr);
  broken->value.host<float>()[0] = INFINITY;
  engine->refresh();
  const Parameter& watched = engine->model().parameters().all().front();
  const std::vector<float> before(watched.value.host<float>(), watched.value.host<float>() + watched.numel());
  engine->begin_step(1, 0.1, batch.target_count, 1);
  engine->add_microbatch(batch);
  EXPECT_FALSE(engine->finish_step().finite);
  EXPECT_EQ(0, std::memcmp(before.data(), watched.value.host<float>(), before.size() * sizeof(float)));
  for (const auto& [layer, experts] : engine->model().expert_layers()) {
    EXPECT_EQ(experts->router_bias()->value.host<float>()[0], 0.0f) << layer;
  }

  engine->set_check_finite(true);
  engine->begin_step(1, 0.1, batch.target_count, 1);
  try {
    engine->add_microbatch(batch);
    FAIL() << "no error";
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), "linear gave a value that is not finite in its output fp32 [42, 36]");
  }
}

TEST(TrainingEngine, RouterBiasMovesTowardsBalanceAndOnlyInTraining) {
  TrainingEngineOptions options = engine_options();
  options.router_bias_update_speed = 0.25;
  const auto engine = drawn_engine(tiny_v3(), options);
  const PackedBatch batch = random_batch(tiny_v3(), 2, kLength, 3);
  const auto [layer, experts] = engine->model().expert_layers().front();
  const Parameter* bias = experts->router_bias();
  engine->evaluate(batch);
  for (int64_t e = 0; e < 8; ++e) EXPECT_EQ(bias->value.host<float>()[e], 0.0f);
  engine->begin_step(1, 0.0, batch.target_count, 1);
  engine->add_microbatch(batch);
  engine->evaluate(batch);  // a validation in the middle of a step counts nothing
  engine->finish_step();
  double sum = 0;
  for (int64_t e = 0; e < 8; ++e) {
    const float value = bias->value.host<float>()[e];
    EXPECT_TRUE(value == 0.25f || value == -0.25f || value == 0.0f) << value;
    sum += std::abs(value);
  }
  EXPECT_GT(sum, 0);
}

}  // namespace
}  // namespace deeptitan

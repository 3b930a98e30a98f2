// Whole training steps: what no part of one shows alone.

#include <omp.h>

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/tiny_model.h"
#include "train/drawn_engine.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::random_batch;
using testing::relative_error;
using testing::tiny_v2;
using testing::tiny_v3;

TrainingEngineOptions options_of(int64_t length, int64_t sequences, double max_norm) {
  TrainingEngineOptions options;
  options.seq_len = length;
  options.sequences = sequences;
  options.max_norm = max_norm;
  return options;
}

StepResult run_step(TrainingEngine& engine, int64_t number, double learning_rate,
                    const std::vector<PackedBatch>& batches) {
  int64_t targets = 0;
  for (const PackedBatch& batch : batches) targets += batch.target_count;
  engine.begin_step(number, learning_rate, targets, static_cast<int64_t>(batches.size()));
  for (const PackedBatch& batch : batches) engine.add_microbatch(batch);
  return engine.finish_step();
}

std::vector<float> elements(const Tensor& tensor) {
  return {tensor.host<float>(), tensor.host<float>() + tensor.numel()};
}

template <typename TensorOf>
std::vector<float> of_all_parameters(TrainingEngine& engine, const TensorOf& tensor_of) {
  std::vector<float> result;
  for (const Parameter& p : engine.model().parameters().all()) {
    const Tensor tensor = tensor_of(p);
    if (!tensor.defined()) continue;
    const std::vector<float> part = elements(tensor);
    result.insert(result.end(), part.begin(), part.end());
  }
  return result;
}

std::vector<float> gradients_of(TrainingEngine& engine) {
  return of_all_parameters(engine, [](const Parameter& p) { return p.gradient; });
}

// Wide enough that products, gradients, attention and vector kernels are cut into several tasks.
ModelConfig wider(ModelConfig c) {
  c.hidden_size = 96;
  c.intermediate_size = 200;
  c.moe_intermediate_size = 66;
  c.vocab_size = 700;
  return c;
}

struct Outcome {
  std::vector<double> numbers;
  std::vector<float> values;
};

Outcome three_steps(const ModelConfig& config, DType compute, int threads) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  TrainingEngineOptions options = options_of(60, 3, /*max_norm=*/0.5);  // which is active
  options.compute = compute;
  options.auxiliary_weight = 0.01;
  const auto engine = drawn_engine(config, options);
  Outcome outcome;
  for (int64_t number = 1; number <= 3; ++number) {
    const StepResult r = run_step(*engine, number, 0.01,
                                  {random_batch(config, 3, 60, 10 + number), random_batch(config, 3, 60, 20 + number)});
    outcome.numbers.insert(outcome.numbers.end(), {r.loss, r.mtp_loss, r.gradient_norm});
  }
  outcome.values = of_all_parameters(*engine, [](const Parameter& p) { return p.value; });
  omp_set_num_threads(before);
  return outcome;
}

TEST(WholeStep, SameBitsOnOneTwoAndThreeThreads) {
  for (const ModelConfig& config : {wider(tiny_v3()), wider(tiny_v2())}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const Outcome one = three_steps(config, compute, 1);
      for (const int threads : {2, 3}) {
        const Outcome more = three_steps(config, compute, threads);
        EXPECT_EQ(more.numbers, one.numbers) << threads << " threads, " << dtype_name(compute);
        EXPECT_TRUE(more.values == one.values) << threads << " threads, " << dtype_name(compute);
      }
    }
  }
}

// What AdamW's first moment holds after step 1 is (1 - beta1) times the gradient that it has been given.
TEST(WholeStep, AGradientLongerThanMaxNormIsScaledToIt) {
  const ModelConfig config = tiny_v3();
  const PackedBatch batch = random_batch(config, 2, 21, 3);
  TrainingEngineOptions options = options_of(21, 2, 0);
  const auto free = drawn_engine(config, options);
  const double norm = run_step(*free, 1, 0.01, {batch}).gradient_norm;
  double squares = 0;
  for (const float g : gradients_of(*free)) squares += static_cast<double>(g) * g;
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-6 * norm);

  const auto expect_scale = [&](double max_norm, double expected) {
    options.max_norm = max_norm;
    const auto engine = drawn_engine(config, options);
    EXPECT_EQ(run_step(*engine, 1, 0.01, {batch}).gradient_norm, norm)
        << "the norm before clipping is what is reported";
    const auto& parameters = engine->model().parameters().all();
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!parameters[i].gradient.defined()) continue;
      std::vector<double> wanted;
      for (const float g : elements(parameters[i].gradient))
        wanted.push_back((1 - options.optimizer.beta1) * expected * g);
      EXPECT_LT(relative_error(elements(engine->optimizer_slot(parameters[i], "first_moment").memory), wanted), 1e-6)
          << parameters[i].spec.name;
    }
  };
  expect_scale(norm / 4, (norm / 4) / (norm + 1e-6));
  expect_scale(norm * 1.01, 1.0);
}

// With so many tokens in the vocabulary the head's logits are made 64 rows at a time: two chunks here, against the same
// rows in two microbatches of one chunk each.
TEST(WholeStep, AHeadInTwoChunksEqualsOneChunkTwice) {
  ModelConfig config = tiny_v3();
  config.vocab_size = 33000;
  const int64_t length = 40;
  std::vector<PackedBatch> halves = {random_batch(config, 1, length, 5), random_batch(config, 1, length, 6)};
  PackedBatch whole = halves[0];
  const PackedBatch& second = halves[1];
  whole.sequences = 2;
  whole.target_count += second.target_count;
  whole.tokens.insert(whole.tokens.end(), second.tokens.begin(), second.tokens.end());
  whole.targets.insert(whole.targets.end(), second.targets.begin(), second.targets.end());
  whole.positions.insert(whole.positions.end(), second.positions.begin(), second.positions.end());
  whole.document_offsets.pop_back();
  for (const int32_t offset : second.document_offsets) {
    whole.document_offsets.push_back(static_cast<int32_t>(length) + offset);
  }
  for (const bool tied : {false, true}) {
    config.tie_word_embeddings = tied;
    const auto chunks = drawn_engine(config, options_of(length, 2, 0));
    const auto microbatches = drawn_engine(config, options_of(length, 1, 0));
    const StepResult one = run_step(*chunks, 1, 0.0, {whole});
    const StepResult two = run_step(*microbatches, 1, 0.0, halves);
    EXPECT_NEAR(one.loss, two.loss, 1e-6);
    EXPECT_NEAR(one.mtp_loss, two.mtp_loss, 1e-6);
    // fp32 sums over tokens in another grouping.
    EXPECT_LT(relative_error(gradients_of(*chunks), gradients_of(*microbatches)), 1e-6);
  }
}

}  // namespace
}  // namespace deeptitan

// Ops that stand for several where a GPU has them in one: of few rows in bf16, or of experts' rows; elsewhere they
// leave the work to those.

#include <gtest/gtest.h>

#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/mixture.h"
#include "ops/op_case.h"

namespace deeptitan {
namespace {

PreparedWeight weight_of(int64_t groups, int64_t outputs, int64_t inputs) {
  PreparedWeight weight;
  weight.groups = groups, weight.outputs = outputs, weight.inputs = inputs;
  return weight;
}
MixtureWeights mixture_of(const PreparedWeight& router, const PreparedWeight& gate_up, const PreparedWeight& down) {
  MixtureWeights weights;
  weights.router = &router, weights.gate_up = &gate_up, weights.down = &down;
  return weights;
}

/// Weights and tensors on a GPU that need not be there: nothing runs.
class FewRowsOps : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef DT_CUDA
    ctx_ = c_.gpu_context();
#else
    GTEST_SKIP() << "this build has no CUDA";
#endif
  }
  Tensor bf16(Tensor::Shape shape) {
    return gpu_.take(DType::kBF16, shape);
  }
  Tensor f32(Tensor::Shape shape) {
    return gpu_.take(DType::kF32, shape);
  }
  Tensor i32(Tensor::Shape shape) {
    return gpu_.take(DType::kI32, shape);
  }
  PreparedWeight weight(int64_t groups, int64_t outputs, int64_t inputs, DType activations = DType::kBF16) {
    PreparedWeight w = weight_of(groups, outputs, inputs);
    w.activations = activations;
    w.backward_layout = BackwardLayout::kKept;
    plan_prepared_weight(w, gpu_);
    return w;
  }
  OpCase c_;
  ExecutionContext ctx_;
  Arena gpu_{"gpu", {DeviceKind::kCuda, 0}};
};

TEST_F(FewRowsOps, TwoProductsRefuseWhatDoesNotFit) {
  const PreparedWeight first = weight(1, 24, 16), second = weight(1, 8, 16);
  const Tensor x = bf16({3, 16});
  linear_twice(ctx_, bf16({3, 24}), first, bf16({3, 8}), second, x);
  expect_runtime_error(
      [&] {
        linear_twice(ctx_, bf16({3, 16}), first, bf16({3, 8}), second, x);
      },
      "linear_twice: out: expected bf16 [3, 24], found bf16 [3, 16] on cuda:0");
  expect_runtime_error(
      [&] {
        linear_twice(ctx_, bf16({3, 24}), first, bf16({2, 8}), second, x);
      },
      "linear_twice: other_out: expected bf16 [3, 8], found bf16 [2, 8] on cuda:0");
}

TEST_F(FewRowsOps, AMixtureRefusesWhatDoesNotFit) {
  constexpr int64_t kTokens = 3, kHidden = 16, kExperts = 4, kWidth = 8;
  RouterOptions options;
  options.experts = kExperts, options.top_k = 2;
  const PreparedWeight router = weight(1, kExperts, kHidden, DType::kF32);
  const PreparedWeight gate_up = weight(kExperts, 2 * kWidth, kHidden), down = weight(kExperts, kHidden, kWidth);
  const PreparedWeight narrow = weight(kExperts, kHidden, 2 * kWidth);
  const Routing routing{i32({kTokens, 2}), f32({kTokens, 2}), f32({kTokens, kExperts}), i32({kExperts})};
  const MixtureWeights weights = mixture_of(router, gate_up, down);
  const Tensor x = bf16({kTokens, kHidden}), out = bf16({kTokens, kHidden}), residual = bf16({kTokens, kHidden});
  EXPECT_TRUE(mixture_of_few(ctx_, out, x, residual, routing, weights, options));
  EXPECT_FALSE(mixture_of_few(ctx_, out, bf16({17, kHidden}), residual, routing, weights, options)) << "too many";
  EXPECT_FALSE(mixture_of_few(ctx_, out, f32({kTokens, kHidden}), residual, routing, weights, options)) << "in f32";
  expect_runtime_error(
      [&] {
        mixture_of_few(ctx_, bf16({kTokens, 8}), x, residual, routing, weights, options);
      },
      "mixture_of_few: out: expected bf16 [3, 16], found bf16 [3, 8] on cuda:0");
  expect_runtime_error(
      [&] {
        mixture_of_few(ctx_, out, x, bf16({2, kHidden}), routing, weights, options);
      },
      "mixture_of_few: residual: expected bf16 [3, 16], found bf16 [2, 16] on cuda:0");
  MixtureWeights wrong = weights;
  wrong.down = &narrow;
  expect_runtime_error([&] { mixture_of_few(ctx_, out, x, residual, routing, wrong, options); },
                       "mixture_of_few: down: expected 4 matrices [16, 8], found 4 of [16, 16]");
}

TEST_F(FewRowsOps, AGatedProductRefusesWhatDoesNotFit) {
  constexpr int64_t kRows = 40, kExperts = 4;
  const PreparedWeight gate_up = weight(kExperts, 32, 16);
  const RowGroups groups{.offsets = i32({kExperts + 1}), .sizes = i32({kExperts}), .capacity = kRows};
  const Tensor x = bf16({kRows, 16}), out = bf16({kRows, 16});
  EXPECT_TRUE(grouped_gate_up(ctx_, out, x, gate_up, groups));
  EXPECT_FALSE(grouped_gate_up(ctx_, bf16({8, 16}), bf16({8, 16}), gate_up, groups)) << "few";
  EXPECT_FALSE(grouped_gate_up(ctx_, f32({kRows, 16}), f32({kRows, 16}), gate_up, groups)) << "in f32";
  expect_runtime_error(
      [&] {
        grouped_gate_up(ctx_, bf16({kRows, 32}), x, gate_up, groups);
      },
      "grouped_gate_up: out: expected bf16 [40, 16], found bf16 [40, 32] on cuda:0");
}

TEST_F(FewRowsOps, AWidenedProductRefusesWhatDoesNotFit) {
  const PreparedWeight router = weight(1, 8, 16, DType::kF32);
  const Tensor x = bf16({40, 16}), out = f32({40, 8});
  EXPECT_TRUE(widened_linear(ctx_, out, x, router));
  EXPECT_FALSE(widened_linear(ctx_, out, f32({40, 16}), router)) << "in f32";
  EXPECT_FALSE(widened_linear(ctx_, out, x, weight(1, 8, 16))) << "a weight in bf16";
  EXPECT_FALSE(widened_linear(ctx_, f32({40, 264}), x, weight(1, 264, 16, DType::kF32))) << "many columns";
  expect_runtime_error(
      [&] {
        widened_linear(ctx_, f32({39, 8}), x, router);
      },
      "widened_linear: out: expected f32 [40, 8], found f32 [39, 8] on cuda:0");
}

TEST(FewRowsOpsOnTheCpu, LeaveTheWorkToOthers) {
  OpCase c;
  const PreparedWeight router = weight_of(1, 4, 16), gate_up = weight_of(4, 16, 16), down = weight_of(4, 16, 8);
  RouterOptions options;
  options.experts = 4, options.top_k = 2;
  const Tensor x = c.bf16({3, 16});
  EXPECT_FALSE(mixture_of_few(c.ctx, x, x, x, {}, mixture_of(router, gate_up, down), options));
  EXPECT_FALSE(widened_linear(c.ctx, c.f32({3, 4}), x, router));
  EXPECT_FALSE(grouped_gate_up(c.ctx, x, x, gate_up, {}));
  LatentEntries entries;
  entries.query = entries.kv_latent = x;
  EXPECT_FALSE(attention_of_few(c.ctx, x, entries, c.bf16({1, 4, 16}), {}, router, down, {}));
}

}  // namespace
}  // namespace deeptitan

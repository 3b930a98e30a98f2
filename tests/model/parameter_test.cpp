#include "model/parameter.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

ParameterSpec matrix(const std::string& name, std::vector<int64_t> shape) {
  ParameterSpec spec;
  spec.name = name;
  spec.shape = std::move(shape);
  return spec;
}

void bind(ParameterList& list, Arena& arena) {
  list.plan_values(arena);
  arena.allocate();
  list.plan_values(arena);
}

TEST(ParameterList, ExpertsAreOneParameterOfManyTensors) {
  ParameterList list(ModelUse::kTraining, DType::kF32);
  Parameter* experts = list.declare(matrix("mlp.experts.{}.up_proj.weight", {3, 5, 7}));
  EXPECT_TRUE(experts->stacked());
  EXPECT_EQ(experts->numel(), 105);
  EXPECT_EQ(experts->file_names(),
            (std::vector<std::string>{"mlp.experts.0.up_proj.weight", "mlp.experts.1.up_proj.weight",
                                      "mlp.experts.2.up_proj.weight"}));
  EXPECT_EQ(experts->part_shape(), (std::vector<int64_t>{5, 7}));
  Arena arena("values");
  bind(list, arena);
  ASSERT_EQ(experts->parts.size(), 3u);
  EXPECT_EQ(experts->parts[2].host<float>(), experts->value.host<float>() + 2 * 35);

  const Parameter* plain = list.declare(matrix("norm.weight", {5}));
  EXPECT_FALSE(plain->stacked());
  EXPECT_EQ(plain->file_names(), std::vector<std::string>{"norm.weight"});
  EXPECT_EQ(plain->part_shape(), std::vector<int64_t>{5});
  EXPECT_EQ(list.total(), 110);
}

TEST(ParameterList, ANameCanBeDeclaredOnce) {
  ParameterList list(ModelUse::kTraining, DType::kF32);
  list.declare(matrix("a.weight", {2, 2}));
  expect_runtime_error([&] { list.declare(matrix("a.weight", {2, 2})); }, "parameter a.weight is declared twice");
}

TEST(ParameterList, InferenceKeepsOnlyWhatLayersReadDirectly) {
  ParameterList list(ModelUse::kInference, DType::kBF16);
  ParameterSpec embedding = matrix("embedding", {4, 6});
  embedding.direct = true;
  ParameterSpec norm = matrix("norm", {6});
  norm.direct = true;
  const Parameter* table = list.declare(embedding);
  const Parameter* weight = list.declare(norm);
  const Parameter* product = list.declare(matrix("product", {4, 6}));
  Arena arena("values");
  bind(list, arena);
  EXPECT_TRUE(table->value.dtype() == DType::kBF16);
  EXPECT_TRUE(weight->value.dtype() == DType::kF32);
  EXPECT_FALSE(product->value.defined());
}

TEST(ParameterList, GradientsAreForTrainedParametersThatAreNotFrozen) {
  ParameterList list(ModelUse::kTraining, DType::kF32);
  ParameterSpec buffer = matrix("bias", {3});
  buffer.trained = false;
  const Parameter* bias = list.declare(buffer);
  Parameter* frozen = list.declare(matrix("frozen", {3, 3}));
  const Parameter* trained = list.declare(matrix("trained", {3, 3}));
  frozen->frozen = true;
  Arena arena("gradients");
  list.plan_gradients(arena);
  EXPECT_FALSE(bias->gradient.defined());
  EXPECT_FALSE(frozen->gradient.defined());
  EXPECT_TRUE(trained->gradient.defined());
}

// Values depend on the seed and the parameter's name alone, so that another order or other neighbours change nothing.
TEST(ParameterList, InitialValuesBelongToTheName) {
  const auto values_of = [](const std::vector<std::string>& names, uint64_t seed) {
    ParameterList list(ModelUse::kTraining, DType::kF32);
    for (const std::string& name : names) list.declare(matrix(name, {40, 50}));
    Arena arena("values");
    bind(list, arena);
    list.initialize(seed, 0.02);
    const float* first = list.find("b")->value.host<float>();
    return std::vector<float>(first, first + 2000);
  };
  const std::vector<float> values = values_of({"a", "b"}, 1);
  EXPECT_EQ(values, values_of({"b", "c", "a"}, 1));
  EXPECT_NE(values, values_of({"a", "b"}, 2));
  double sum = 0;
  double squares = 0;
  for (const float v : values) {
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  // Four standard errors of 2000 draws.
  EXPECT_NEAR(sum / 2000, 0.0, 4 * 0.02 / std::sqrt(2000.0));
  EXPECT_NEAR(std::sqrt(squares / 2000), 0.02, 4 * 0.02 / std::sqrt(4000.0));
}

}  // namespace
}  // namespace deeptitan

#include "model/parameter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "core/random.h"
#include "model/deepseek/deepseek_model.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

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
  ParameterList list(/*training=*/true, DType::kF32);
  Parameter* experts = list.declare(matrix("mlp.experts.{}.up_proj.weight", {3, 5, 7}));
  EXPECT_TRUE(experts->stacked());
  EXPECT_EQ(experts->numel(), 105);
  const std::vector<FileTensor> tensors = experts->file_tensors();
  ASSERT_EQ(tensors.size(), 3u);
  for (int64_t e = 0; e < 3; ++e) {
    EXPECT_EQ(tensors[e].name, "mlp.experts." + std::to_string(e) + ".up_proj.weight");
    EXPECT_EQ(tensors[e].shape, (std::vector<int64_t>{5, 7}));
    EXPECT_EQ(tensors[e].offset, e * 35);
  }
  Arena arena("values");
  bind(list, arena);
  EXPECT_EQ(experts->value.numel(), 105);

  const Parameter* plain = list.declare(matrix("norm.weight", {5}));
  EXPECT_FALSE(plain->stacked());
  ASSERT_EQ(plain->file_tensors().size(), 1u);
  EXPECT_EQ(plain->file_tensors().front().name, "norm.weight");
  EXPECT_EQ(plain->file_tensors().front().shape, std::vector<int64_t>{5});
  EXPECT_EQ(list.total(), 110);
}

TEST(ParameterList, ANameCanBeDeclaredOnce) {
  ParameterList list(/*training=*/true, DType::kF32);
  list.declare(matrix("a.weight", {2, 2}));
  expect_runtime_error([&] { list.declare(matrix("a.weight", {2, 2})); }, "parameter a.weight is declared twice");
}

TEST(ParameterList, InferenceKeepsOnlyWhatLayersReadDirectly) {
  ParameterList list(/*training=*/false, DType::kBF16);
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
  ParameterList list(/*training=*/true, DType::kF32);
  ParameterSpec buffer = matrix("bias", {3});
  buffer.trained = false;
  const Parameter* bias = list.declare(buffer);
  Parameter* frozen = list.declare(matrix("frozen", {3, 3}));
  const Parameter* trained = list.declare(matrix("trained", {3, 3}));
  list.freeze(*frozen);
  Arena arena("gradients");
  list.plan_gradients(arena);
  EXPECT_FALSE(bias->gradient.defined());
  EXPECT_FALSE(frozen->gradient.defined());
  EXPECT_TRUE(trained->gradient.defined());
}

TEST(ParameterList, AFrozenParameterHasNoMaster) {
  ParameterList list(/*training=*/true, DType::kBF16);
  Parameter* matrix_only = list.declare(matrix("product", {4, 6}));
  ParameterSpec table = matrix("table", {4, 6});
  table.direct = true;
  Parameter* read_directly = list.declare(table);
  ParameterSpec norm = matrix("norm", {6});
  norm.direct = true;
  Parameter* vector = list.declare(norm);
  for (Parameter* p : {matrix_only, read_directly, vector}) list.freeze(*p);
  EXPECT_TRUE(matrix_only->residency == Residency::kFrozenPrepared);
  EXPECT_TRUE(read_directly->residency == Residency::kDirect);
  Arena arena("values");
  bind(list, arena);
  EXPECT_FALSE(matrix_only->value.defined());
  EXPECT_TRUE(read_directly->value.dtype() == DType::kBF16);
  EXPECT_TRUE(vector->value.dtype() == DType::kF32);
  ExecutionContext ctx;
  list.load(ctx, std::make_shared<DrawnValues>(1, 0.02));
  // All three are written as they were drawn.
  for (Parameter* p : {matrix_only, read_directly, vector}) {
    const FileTensor tensor = p->file_tensors().front();
    std::vector<float> staged;
    const float* values = list.values(*p, tensor, staged);
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      EXPECT_EQ(values[i], 0.02f * random_normal(random_key(p->spec.name, 1), i)) << p->spec.name << " " << i;
    }
  }
}

TEST(ParameterList, APieceIsATensorOfItsOwnInTheFile) {
  ParameterSpec spec = matrix("experts.{}.gate_up.weight", {3, 5, 4});
  spec.pieces = {{"experts.{}.gate.weight", 2}, {"experts.{}.up.weight", 3}};
  ParameterList list(/*training=*/true, DType::kF32);
  const Parameter* p = list.declare(spec);
  Arena arena("values");
  bind(list, arena);
  ExecutionContext ctx;
  list.load(ctx, std::make_shared<DrawnValues>(1, 0.02));
  const std::vector<FileTensor> tensors = p->file_tensors();
  ASSERT_EQ(tensors.size(), 6u);
  EXPECT_EQ(tensors[3].name, "experts.1.up.weight");
  EXPECT_EQ(tensors[3].shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(tensors[3].offset, 20 + 8);
  // Each tensor is drawn as if it lay in a stack of its own kind.
  for (const FileTensor& tensor : tensors) {
    const int64_t expert = tensor.offset / 20;
    const bool up = tensor.name.find("up") != std::string::npos;
    const uint64_t key = random_key(up ? "experts.{}.up.weight" : "experts.{}.gate.weight", 1);
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      EXPECT_EQ(p->value.host<float>()[tensor.offset + i], 0.02f * random_normal(key, expert * (up ? 12 : 8) + i));
    }
  }
  spec.name = "other.{}.weight";
  spec.pieces.front().rows = 3;
  expect_runtime_error([&] { list.declare(spec); }, "parameter other.{}.weight has 5 rows, its pieces have 6");
}

TEST(ParameterList, AListMayHoldSomeOfTheExperts) {
  const auto declare = [](ParameterList& list) {
    list.declare(matrix("dense", {3, 3}));
    return list.declare(matrix("experts.{}.up", {5, 3, 4}));
  };
  ParameterList whole(/*training=*/true, DType::kF32), part(/*training=*/true, DType::kF32, {2, 2});
  const Parameter* all = declare(whole);
  const Parameter* some = declare(part);
  Arena first("values"), second("values");
  bind(whole, first);
  bind(part, second);
  ExecutionContext ctx;
  whole.load(ctx, std::make_shared<DrawnValues>(1, 0.02));
  part.load(ctx, std::make_shared<DrawnValues>(1, 0.02));
  EXPECT_EQ(some->shape, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(some->spec.shape, (std::vector<int64_t>{5, 3, 4}));
  EXPECT_EQ(some->file_tensors().front().name, "experts.2.up");
  EXPECT_EQ(0, std::memcmp(some->value.raw(), all->value.host<float>() + 2 * 12, 2 * 12 * sizeof(float)));
  EXPECT_EQ(0, std::memcmp(part.find("dense")->value.raw(), whole.find("dense")->value.raw(), 9 * sizeof(float)));
  ParameterList beyond(/*training=*/true, DType::kF32, {4, 2});
  expect_runtime_error([&] { declare(beyond); }, "experts 4 to 5 were asked for; experts.{}.up has experts 0 to 4");
}

// What a seed gives must never change: element of a checkpoint's tensor, value.
TEST(DrawnValues, TenValuesOfANewModel) {
  struct Pin {
    const char* tensor;
    int64_t index;
    float value;
  };
  const Pin pins[] = {{"model.embed_tokens.weight", 0, 0.0469073616f},
                      {"lm_head.weight", 1679, -0.35201627f},
                      {"model.layers.0.mlp.gate_proj.weight", 5, 0.268755913f},
                      {"model.layers.0.mlp.up_proj.weight", 959, 0.117797904f},
                      {"model.layers.1.mlp.experts.0.gate_proj.weight", 1, -0.268678367f},
                      {"model.layers.1.mlp.experts.3.gate_proj.weight", 431, 0.0393195301f},
                      {"model.layers.1.mlp.experts.7.up_proj.weight", 2, 0.186838523f},
                      {"model.layers.2.mlp.experts.5.down_proj.weight", 100, 0.0446937606f},
                      {"model.layers.3.mlp.shared_experts.up_proj.weight", 17, 0.196026772f},
                      {"model.layers.0.self_attn.kv_a_layernorm.weight", 3, 1.0f}};
  const ModelConfig config = testing::tiny_v3();
  DeepseekModel model(config, {.max_positions = 1});
  Arena arena("values");
  bind(model.parameters(), arena);
  ExecutionContext ctx;
  model.parameters().load(ctx, std::make_shared<DrawnValues>(7, config.initializer_range));
  std::map<std::string, float> found;
  for (const Parameter& p : model.parameters().all()) {
    for (const FileTensor& tensor : p.file_tensors()) {
      for (const Pin& pin : pins) {
        if (tensor.name == pin.tensor) found[pin.tensor] = p.value.host<float>()[tensor.offset + pin.index];
      }
    }
  }
  EXPECT_EQ(found.size(), 10u);
  for (const Pin& pin : pins) EXPECT_EQ(found[pin.tensor], pin.value) << pin.tensor;
}

// Values depend on the seed and the parameter's name alone, so that another order or other neighbours change nothing.
TEST(ParameterList, InitialValuesBelongToTheName) {
  const auto values_of = [](const std::vector<std::string>& names, uint64_t seed) {
    ParameterList list(/*training=*/true, DType::kF32);
    for (const std::string& name : names) list.declare(matrix(name, {40, 50}));
    Arena arena("values");
    bind(list, arena);
    ExecutionContext ctx;
    list.load(ctx, std::make_shared<DrawnValues>(seed, 0.02));
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

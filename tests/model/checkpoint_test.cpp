#include "model/deepseek/checkpoint.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include <gtest/gtest.h>

#include "config/model_config_json.h"
#include "core/error.h"
#include "model/golden_case.h"
#include "support/temporary_folder.h"

// Reading and writing whole models; the fixtures of tests/golden/model are written by transformers.

namespace deeptitan {
namespace {

using testing::GoldenCase;

ModelOptions options(bool next_token_prediction, ExpertRange experts) {
  ModelOptions result;
  result.max_positions = 1;
  result.next_token_prediction = next_token_prediction;
  result.experts = experts;
  return result;
}

// A training model with the memory of its values.
struct Values {
  DeepseekModel model;
  Arena arena{"values"};

  explicit Values(const ModelConfig& config, bool next_token_prediction = true, ExpertRange experts = {})
      : model(config, options(next_token_prediction, experts)) {
    model.parameters().plan_values(arena);
    arena.allocate();
    model.parameters().plan_values(arena);
  }
};

void load(const std::filesystem::path& directory, DeepseekModel& model) {
  ExecutionContext ctx;
  load_weights(ctx, std::make_shared<ModelDirectory>(directory), model);
}

void expect_same_values(const DeepseekModel& a, const DeepseekModel& b, const std::string& of) {
  ASSERT_EQ(a.parameters().all().size(), b.parameters().all().size()) << of;
  for (size_t i = 0; i < a.parameters().all().size(); ++i) {
    const Parameter& p = a.parameters().all()[i];
    const Parameter& q = b.parameters().all()[i];
    ASSERT_EQ(p.spec.name, q.spec.name) << of;
    EXPECT_EQ(0, std::memcmp(p.value.raw(), q.value.raw(), p.value.bytes())) << of << " " << p.spec.name;
  }
}

// The fixtures' weights are exact in bf16, and their router biases are not.
TEST(ModelCheckpoint, WrittenAndReadBackGivesTheSameBits) {
  for (const std::string& name : GoldenCase::names()) {
    const GoldenCase golden(name);
    Values first(golden.config());
    load(golden.folder(), first.model);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TemporaryFolder temporary;
      std::filesystem::path folder = temporary.path();
      if (const char* kept = std::getenv("DEEPTITAN_EXPORT_DIR"); kept != nullptr) {  // for check_export.py
        folder = std::filesystem::path(kept) / name / std::string(dtype_name(dtype));
        std::filesystem::create_directories(folder);
      }
      save_model(folder, first.model, dtype);
      ModelConfig config = load_model_config(folder);
      Values second(config);
      const ModelDirectory written(folder);
      load(folder, second.model);
      expect_same_values(first.model, second.model, name);
      for (const Parameter& p : second.model.parameters().all()) {
        EXPECT_TRUE(written.at(p.file_tensors().front().name).dtype == (p.spec.trained ? dtype : DType::kF32))
            << p.spec.name;
      }
      config.other_fields = golden.config().other_fields;
      EXPECT_TRUE(config == golden.config()) << name << ": config.json came back as another";
    }
  }
}

TEST(ModelCheckpoint, NextTokenPredictionModuleIsLoadedOrLeft) {
  const GoldenCase golden("v3_next_token_prediction");
  Values with(golden.config());
  Values without(golden.config(), false);
  load(golden.folder(), with.model);
  load(golden.folder(), without.model);
  Parameter* join = with.model.parameters().find("model.layers.1.eh_proj.weight");
  ASSERT_NE(join, nullptr);
  EXPECT_NE(join->value.host<float>()[0], 0.0f);
  EXPECT_EQ(without.model.parameters().find("model.layers.1.eh_proj.weight"), nullptr);
}

TEST(ModelCheckpoint, ARankLoadsTheExpertsThatItOwns) {
  const GoldenCase golden("v3_one_group");
  Values whole(golden.config());
  Values part(golden.config(), true, {5, 2});
  load(golden.folder(), whole.model);
  load(golden.folder(), part.model);
  int64_t stacks = 0;
  for (size_t i = 0; i < whole.model.parameters().all().size(); ++i) {
    const Parameter& all = whole.model.parameters().all()[i];
    const Parameter& owned = part.model.parameters().all()[i];
    const int64_t expert = all.numel() / all.shape[0];
    const int64_t first = all.stacked() ? 5 * expert : 0;
    EXPECT_EQ(owned.numel(), all.stacked() ? 2 * expert : all.numel()) << all.spec.name;
    EXPECT_EQ(0, std::memcmp(owned.value.raw(), all.value.host<float>() + first, owned.value.bytes())) << all.spec.name;
    stacks += all.stacked() ? 1 : 0;
  }
  EXPECT_GT(stacks, 0);
}

TEST(ModelCheckpoint, AModelThatDoesNotFitIsAnErrorThatNamesTheFirstTensor) {
  const GoldenCase golden("v3_one_group");
  const auto error_of = [&](const ModelConfig& config) -> std::string {
    Values values(config);
    try {
      load(golden.folder(), values.model);
    } catch (const Error& error) {
      const std::string text = error.what();
      return text.substr(text.find(": ") + 2);
    }
    return "no error";
  };
  ModelConfig more = golden.config();
  more.num_hidden_layers += 1;
  EXPECT_EQ(
      error_of(more),
      "tensor model.layers.1.input_layernorm.weight is missing (36 in all); the config.json beside it asks for it");
  ModelConfig biased = golden.config();
  biased.attention_bias = true;
  EXPECT_EQ(
      error_of(biased),
      "tensor model.layers.0.self_attn.kv_a_proj_with_mqa.bias is missing (2 in all); the config.json beside it asks "
      "for it");
  ModelConfig fewer = golden.config();
  fewer.n_routed_experts -= 1;
  EXPECT_EQ(
      error_of(fewer),
      "tensor model.layers.0.mlp.experts.7.down_proj.weight belongs to no part of the model (3 such in all); does "
      "config.json fit?");
}

}  // namespace
}  // namespace deeptitan

#include "generate/inference_engine.h"

#include <ostream>
#include <string>

#include <gtest/gtest.h>
#include <omp.h>

#include "checkpoint/convert_directory.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "config/model_config_json.h"
#include "generate/model_fixture.h"
#include "model/deepseek/checkpoint.h"
#include "support/compare.h"
#include "support/data_folder.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::DrawnModel;
using testing::random_tokens;
using testing::relative_error;

// The absorbed and the expanded products round differently: fp32 a few hundred times, through three layers. In bf16
// each layer rounds to 2^-9 in another place.
double tolerance(DType dtype) {
  return dtype == DType::kF32 ? 2e-5 : 5e-2;
}

std::vector<float> copy(std::span<const float> values) {
  return {values.begin(), values.end()};
}

struct Case {
  const char* name;
  ModelConfig config;
  DType compute;
};
void PrintTo(const Case& model, std::ostream* out) {
  *out << model.name;
}

class EveryModel : public ::testing::TestWithParam<Case> {};

// The same logits whether the last token comes out of one forward over all (expanded keys and values), or out of the
// cache (absorbed projections), for every length.
TEST_P(EveryModel, DecodingGivesTheLogitsOfAFullForward) {
  const auto [name, config, compute] = GetParam();
  const auto full = drawn_engine(config, {.compute = compute, .page_size = 5});
  const auto decoding = drawn_engine(config, {.compute = compute, .page_size = 5});
  const std::vector<int32_t> tokens = random_tokens(config, config.max_position_embeddings, 1);
  for (size_t n = 1; n <= tokens.size(); ++n) {
    full->truncate(0);
    const std::vector<float> expected = copy(full->prefill(std::span(tokens).first(n)));
    const std::vector<float> found = copy(decoding->decode(tokens[n - 1]));
    EXPECT_LE(relative_error(found, expected), tolerance(compute)) << n << " tokens";
  }
}

TEST_P(EveryModel, ChunkedPrefillEqualsOne) {
  const auto [name, config, compute] = GetParam();
  const auto whole = drawn_engine(config, {.compute = compute});
  const std::vector<int32_t> tokens = random_tokens(config, 61, 2);
  const std::vector<float> expected = copy(whole->prefill(tokens));
  for (const int64_t chunk : {1, 7, 60}) {
    const auto chunked = drawn_engine(config, {.compute = compute, .prefill_chunk = chunk, .page_size = 8});
    EXPECT_LE(relative_error(copy(chunked->prefill(tokens)), expected), tolerance(compute)) << "chunks of " << chunk;
    EXPECT_EQ(chunked->length(), 61);
  }
}

TEST_P(EveryModel, ScoreGivesEachTokensLogProbability) {
  const auto [name, config, compute] = GetParam();
  const auto engine = drawn_engine(config, {.compute = compute, .prefill_chunk = 16});
  const std::vector<int32_t> tokens = random_tokens(config, 40, 3);
  std::vector<int32_t> targets(tokens.begin() + 1, tokens.end());
  targets.push_back(-1);
  std::vector<float> logprobs(40);
  std::vector<int32_t> likeliest(40);
  engine->score(tokens, targets, logprobs, likeliest);
  EXPECT_EQ(logprobs.back(), 0.0f);
  engine->truncate(0);
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const std::span<const float> logits = engine->decode(tokens[i]);
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    EXPECT_NEAR(logprobs[i], logits[targets[i]] - std::log(sum), compute == DType::kF32 ? 1e-4 : 0.1);
    if (compute == DType::kF32) {
      EXPECT_EQ(likeliest[i], std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
  }
}

// Rounding to bf16 flips near ties between experts, which is not what is compared here: in bf16 all layers are dense.
ModelConfig without_experts(ModelConfig config) {
  config.first_k_dense_replace = config.num_hidden_layers;
  return config;
}

ModelConfig with_rope(ModelConfig config, RopeKind kind) {
  config.rope.kind = kind;
  config.rope.factor = 4.0;
  config.rope.original_max_position_embeddings = 16;
  return config;
}

INSTANTIATE_TEST_SUITE_P(
    InferenceEngine, EveryModel,
    ::testing::Values(Case{"v3_f32", testing::tiny_v3(), DType::kF32}, Case{"v2_f32", testing::tiny_v2(), DType::kF32},
                      Case{"linear_f32", with_rope(testing::tiny_v3(), RopeKind::kLinear), DType::kF32},
                      Case{"v3_bf16", without_experts(testing::tiny_v3()), DType::kBF16},
                      Case{"v2_bf16", without_experts(testing::tiny_v2()), DType::kBF16}),
    [](const auto& instance) { return std::string(instance.param.name); });

TEST(InferenceEngine, ContinuesFromWhatThePromptSharesWithTheCache) {
  const ModelConfig config = testing::tiny_v3();
  const auto engine = drawn_engine(config);
  const auto fresh = drawn_engine(config);
  std::vector<int32_t> tokens = random_tokens(config, 30, 4);
  engine->prefill(tokens);
  EXPECT_EQ(engine->keep_common_prefix(tokens), 29);  // the last one's logits are wanted
  EXPECT_EQ(engine->keep_common_prefix(std::span(tokens).first(10)), 9);
  engine->truncate(0);
  engine->prefill(tokens);

  tokens[20] ^= 1;
  tokens.push_back(5);
  EXPECT_EQ(engine->keep_common_prefix(tokens), 20);
  const std::vector<float> found = copy(engine->prefill(std::span(tokens).subspan(20)));
  EXPECT_LE(relative_error(found, copy(fresh->prefill(tokens))), tolerance(DType::kF32));
  EXPECT_EQ(std::vector<int32_t>(engine->tokens().begin(), engine->tokens().end()), tokens);
  EXPECT_EQ(engine->keep_common_prefix({}), 0);
}

TEST(InferenceEngine, EveryLengthBehindEveryLengthFitsInThePlan) {
  const ModelConfig config = testing::tiny_v3();
  const int threads = omp_get_max_threads();
  omp_set_num_threads(4);  // workspace counts threads
  const std::vector<int32_t> tokens = random_tokens(config, 20, 9);
  for (const int64_t chunk : {1, 6, 20}) {
    const auto engine = drawn_engine(config, {.context_length = 20, .prefill_chunk = chunk});
    for (int64_t first = 0; first < 20; ++first) {
      for (int64_t count = 1; first + count <= 20; ++count) {
        engine->truncate(0);
        if (first > 0) engine->prefill(std::span(tokens).first(first));
        EXPECT_NO_THROW(engine->prefill(std::span(tokens).subspan(first, count))) << first << " + " << count;
      }
    }
  }
  omp_set_num_threads(threads);
}

TEST(InferenceEngine, WeightsComeAlikeFromADirectoryATrainedModelAndASeed) {
  for (const ModelConfig& config : {testing::tiny_v3(), testing::tiny_v2()}) {
    const DrawnModel drawn(config);
    const TemporaryFolder folder;
    save_model(folder.path(), drawn.model, DType::kF32);
    const std::vector<int32_t> tokens = random_tokens(config, 20, 5);
    const std::vector<float> expected = copy(drawn_engine(config)->prefill(tokens));

    InferenceEngine from_directory(config, {});
    from_directory.allocate();
    from_directory.load(ModelDirectory(folder.path()));
    EXPECT_EQ(copy(from_directory.prefill(tokens)), expected);

    InferenceEngine from_training(config, {});
    from_training.allocate();
    from_training.load(drawn.model);
    EXPECT_EQ(copy(from_training.prefill(tokens)), expected);
  }
}

// tests/golden/model/make_decoding.py: the frequencies change at every token beyond the 64 that the model was trained
// at.
TEST(InferenceEngine, DynamicPositionsWhileDecodingAreThoseOfTransformers) {
  const auto folder = testing::data_folder() / "golden" / "model" / "v2_dynamic";
  ModelConfig config = load_model_config(folder);
  config.rope.original_max_position_embeddings = config.max_position_embeddings;
  config.max_position_embeddings = 128;
  const SafetensorsFile given(folder / "expected.safetensors"), golden(folder / "decoding.safetensors");
  const TensorEntry* ids = given.find("tokens");
  ASSERT_NE(ids, nullptr);
  const auto* first = reinterpret_cast<const int32_t*>(ids->data);
  const std::vector<int32_t> tokens(first, first + ids->bytes / sizeof(int32_t));
  const auto expect_rows = [&](const char* name, int64_t prefilled, int64_t chunk) {
    InferenceEngine engine(config, {.compute = DType::kF32, .prefill_chunk = chunk});
    engine.allocate();
    engine.load(ModelDirectory(folder));
    const TensorEntry* rows = golden.find(name);
    ASSERT_NE(rows, nullptr);
    const auto* values = reinterpret_cast<const float*>(rows->data);
    std::vector<float> logits = copy(engine.prefill(std::span(tokens).first(prefilled)));
    for (int64_t step = 0; step < rows->shape[0]; ++step) {
      if (step > 0) logits = copy(engine.decode(tokens[prefilled + step - 1]));
      const float* row = values + step * rows->shape[1];
      EXPECT_LE(relative_error(logits, std::vector<float>(row, row + rows->shape[1])), tolerance(DType::kF32))
          << name << ", " << prefilled + step << " tokens";
    }
  };
  expect_rows("logits/60", 60, 1024);
  expect_rows("logits/90", 90, 1024);
  expect_rows("logits/90", 90, 10);  // a prompt in chunks is the prompt whole
}

// Wider than a block of 128, so that blocks have edges. What fp8 blocks mean is what conversion to fp32 writes out.
TEST(InferenceEngine, AnFp8DirectoryGivesTheLogitsOfItsValues) {
  ModelConfig config = testing::tiny_v3();
  config.hidden_size = 144;
  config.intermediate_size = 136;
  const DrawnModel drawn(config);
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "fp32");
  save_model(folder.path() / "fp32", drawn.model, DType::kF32);
  const auto convert = [&](const char* from, const char* to, DType dtype) {
    ConvertOptions options;
    options.dtype = dtype;
    convert_directory(folder.path() / from, folder.path() / to, options);
  };
  convert("fp32", "fp8", DType::kF8E4M3);
  convert("fp8", "widened", DType::kF32);
  const std::vector<int32_t> tokens = random_tokens(config, 20, 5);
  const auto logits_of = [&](const char* name) {
    InferenceEngine engine(config, {});
    engine.allocate();
    engine.load(ModelDirectory(folder.path() / name));
    return copy(engine.prefill(tokens));
  };
  const std::vector<float> found = logits_of("fp8");
  EXPECT_EQ(found, logits_of("widened"));
  const double distance = relative_error(found, logits_of("fp32"));
  EXPECT_GT(distance, 1e-3) << "the weights were not rounded to fp8";
  EXPECT_LT(distance, 0.3);
}

TEST(InferenceEngine, RefusesWhatDoesNotFit) {
  const ModelConfig config = testing::tiny_v3();
  expect_usage_error([&] { InferenceEngine(config, {.context_length = 65}); },
                     "a context of 65 tokens was asked for; the model's max_position_embeddings allows 1 to 64");
  const auto engine = drawn_engine(config, {.context_length = 8});
  const std::vector<int32_t> tokens = random_tokens(config, 9, 6);
  expect_runtime_error([&] { engine->prefill(tokens); }, "9 tokens do not fit behind the 0 in a context of 8");
  expect_runtime_error([&] { engine->decode(70); }, "token id 70 is outside the model's vocabulary of 70");
  expect_runtime_error([&] { engine->decode(-1); }, "token id -1 is outside the model's vocabulary of 70");
  expect_runtime_error([&] { engine->prefill({}); }, "a forward needs at least one token, found none");
  engine->prefill(std::span(tokens).first(8));
  expect_runtime_error([&] { engine->decode(1); }, "1 tokens do not fit behind the 8 in a context of 8");
  expect_runtime_error([&] { engine->truncate(9); }, "truncate to 9: the cache holds 8 tokens");
}

TEST(InferenceEngine, NamesTheLargestArenasOfARunThatDoesNotFitInMemory) {
  ModelConfig config = testing::tiny_v3();
  config.max_position_embeddings = int64_t{1} << 36;
  InferenceEngine engine(config, {.prefill_chunk = 1, .page_size = int64_t{1} << 20});
  try {
    engine.allocate();
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("the model needs ")) << error.what();
    EXPECT_NE(std::string(error.what()).find("its largest arenas are latent cache ("), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace deeptitan

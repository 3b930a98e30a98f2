#include "generate/generation_config.h"

#include <gtest/gtest.h>

#include "generate/model_fixture.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

TEST(GenerationConfig, CollectsTheEndsOfTextOfAllFiles) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = testing::tiny_tokenizer();  // its eos_token is 1
  ModelConfig config = testing::tiny_v3();
  config.eos_token_ids = {7};
  EXPECT_EQ(load_generation_config(folder.path(), config, tokenizer).end_ids, (std::vector<int32_t>{1, 7}));
  folder.write("generation_config.json", R"({"eos_token_id": [9, 4]})");
  EXPECT_EQ(load_generation_config(folder.path(), config, tokenizer).end_ids, (std::vector<int32_t>{1, 4, 7, 9}));
  folder.write("generation_config.json", R"({"eos_token_id": 2})");
  EXPECT_EQ(load_generation_config(folder.path(), config, tokenizer).end_ids, (std::vector<int32_t>{1, 2, 7}));
}

TEST(GenerationConfig, RecommendsSamplingOnlyWhereTheFileSamples) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = testing::tiny_tokenizer();
  const ModelConfig config = testing::tiny_v3();
  folder.write("generation_config.json", R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": null})");
  const SamplingOptions sampling = load_generation_config(folder.path(), config, tokenizer).sampling;
  EXPECT_EQ(sampling.temperature, 0.6);
  EXPECT_EQ(sampling.top_p, 0.95);
  EXPECT_EQ(sampling.top_k, 0);
  folder.write("generation_config.json", R"({"temperature": 0.6})");
  EXPECT_EQ(load_generation_config(folder.path(), config, tokenizer).sampling.temperature, 1.0);
}

TEST(GenerationConfig, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = testing::tiny_tokenizer();
  const ModelConfig config = testing::tiny_v3();
  const std::string path = folder.write("generation_config.json", "{");
  const auto load = [&] { load_generation_config(folder.path(), config, tokenizer); };
  expect_runtime_error(load, path + ": expected a JSON object");
  folder.write("generation_config.json", R"({"eos_token_id": "end"})");
  expect_runtime_error(load, path + ": eos_token_id is neither a token id nor a list of them");
  folder.write("generation_config.json", R"({"do_sample": true, "top_p": "most"})");
  expect_runtime_error(load, path + ": top_p is not a number");
}

}  // namespace
}  // namespace deeptitan

#include "generate/generation_config.h"

#include <fmt/format.h>
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
  expect_runtime_error(load, path + ": not valid JSON: it ends too early (byte 2)");
  folder.write("generation_config.json", "[]");
  expect_runtime_error(load, path + ": expected a JSON object, found array");
  const std::string last = std::to_string(config.vocab_size - 1);
  for (const char* id : {"\"end\"", "4294967297", "-1", "99999", "[1,18446744073709551615]", "1e999", "NaN"}) {
    folder.write("generation_config.json", fmt::format("{{\"eos_token_id\": {}}}", id));
    expect_runtime_error(load, path + ": eos_token_id = " + id +
                                   "; expected a token id from 0 to vocab_size - 1 = " + last + ", or a list of them");
  }
  for (const char* k : {"1e300", "-1", "2.5", "\"all\"", "18446744073709551615"}) {
    folder.write("generation_config.json", fmt::format("{{\"do_sample\": true, \"top_k\": {}}}", k));
    const std::string shown_k = std::string(k) == "1e300" ? "1e+300" : k;
    expect_runtime_error(
        load, path + ": top_k = " + shown_k + "; expected a whole number from 1 up, or 0 or null for all tokens");
  }
  folder.write("generation_config.json", R"({"do_sample": true, "top_p": "most"})");
  expect_runtime_error(load, path + ": top_p = \"most\"; expected a number above 0 and up to 1");
  folder.write("generation_config.json", R"({"do_sample": true, "temperature": NaN})");
  expect_runtime_error(load, path + ": temperature = NaN; expected a number of at least 0");
  // What is not wanted is in nobody's way.
  folder.write("generation_config.json", R"({"do_sample": false, "temperature": NaN, "top_k": -1, "x": "\ud83d"})");
  load();
  folder.write("generation_config.json", R"({"do_sample": true, "top_k": 0})");
  EXPECT_EQ(load_generation_config(folder.path(), config, tokenizer).sampling.top_k, 0);
}

}  // namespace
}  // namespace deeptitan

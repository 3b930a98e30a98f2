// What commands say of a model directory that is damaged, and of a text that does not fit the model.

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "core/file.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using testing::Outcome;
using testing::run_program;

class DamagedModel : public ::testing::Test {
 protected:
  // One step is enough: its model is as large as any.
  static void SetUpTestSuite() {
    sample_ = new testing::SampleRun;
    const std::string file = sample_->run("run.toml").string();
    std::ofstream(file) << sample_->toml("run", "steps = 1\ndtype = \"fp32\"\n");
    const Outcome outcome = run_program({"train", file, "--model.shape.max_position_embeddings", "32"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  static void TearDownTestSuite() { delete sample_; }

  void SetUp() override {
    model_ = sample_->run("damaged");
    fs::remove_all(model_);
    fs::copy(sample_->run("run") / "model", model_, fs::copy_options::recursive);
    // As a directory of another program, which knows no digests.
    fs::remove(model_ / "manifest.json");
  }

  std::string weights() const { return read_file(model_ / "model.safetensors"); }
  void write_weights(const std::string& bytes) const {
    std::ofstream(model_ / "model.safetensors", std::ios::binary) << bytes;
  }
  // Replaces text in a file by text of the same length.
  void replace(const char* name, const std::string& from, const std::string& to) const {
    std::string text = read_file(model_ / name);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_EQ(from.size(), to.size());
    std::ofstream(model_ / name, std::ios::binary) << text.replace(at, from.size(), to);
  }
  // One line on stderr that holds `parts`, nothing on stdout.
  void expect_failure(const std::vector<std::string>& parts, int exit_code = 1) const {
    const Outcome outcome =
        run_program({"generate", "--model", model_.string(), "--prompt", "And", "--max-new-tokens", "2"});
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("deeptitan: ")) << outcome.err;
    EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
    for (const std::string& part : parts)
      EXPECT_NE(outcome.err.find(part), std::string::npos) << part << ": " << outcome.err;
  }

  static const testing::SampleRun* sample_;
  fs::path model_;
};

const testing::SampleRun* DamagedModel::sample_ = nullptr;

TEST_F(DamagedModel, WeightsThatAreDamagedAreRefused) {
  const std::string whole = weights();
  write_weights(whole.substr(0, 5));
  expect_failure({"model.safetensors: 5 bytes are too few for a safetensors file; it is truncated"});
  write_weights(whole.substr(0, whole.size() - 1));
  expect_failure({"model.safetensors: tensor ", "the file is truncated"});
  std::string oversized = whole;
  const uint64_t announced = uint64_t{1} << 40;
  std::memcpy(oversized.data(), &announced, sizeof announced);
  write_weights(oversized);
  expect_failure({"a header of 1099511627776 bytes is announced, the format allows "});
}

TEST_F(DamagedModel, AMissingTensorIsNamed) {
  replace("model.safetensors", "\"model.norm.weight\"", "\"model.norn.weight\"");
  expect_failure(
      {model_.string() + ": tensor model.norm.weight is missing (1 in all); the config.json beside it asks for it"});
}

TEST_F(DamagedModel, ATensorTooManyIsNamed) {
  replace("config.json", "\"n_shared_experts\": 1", "\"n_shared_experts\": 0");
  expect_failure({model_.string() +
                  ": tensor model.layers.1.mlp.shared_experts.down_proj.weight belongs to no part of the model (3 such "
                  "in all); does config.json fit?"});
}

TEST_F(DamagedModel, ATensorOfAnotherTypeIsNamed) {
  std::string bytes = weights();
  const size_t name = bytes.find("\"model.norm.weight\"");
  const size_t type = bytes.find("\"F32\"", name);
  ASSERT_NE(type, std::string::npos);
  write_weights(bytes.replace(type, 5, "\"I32\""));
  expect_failure(
      {model_.string() + ": tensor model.norm.weight is i32; the model needs fp32, bf16, fp16, fp64 or fp8"});
}

TEST_F(DamagedModel, AValueThatIsNotFiniteIsNamedByEveryCommand) {
  const std::string text = sample_->run("finite.txt").string(), pairs = sample_->run("finite.jsonl").string();
  std::ofstream(text) << "And the king saw the river.\n";
  std::ofstream(pairs) << R"({"context": "And the", "continuation": " king"})"
                       << "\n";
  const std::string model = model_.string();
  const std::vector<std::vector<std::string>> commands = {
      {"generate", "--model", model, "--prompt", "And", "--max-new-tokens", "2"},
      {"generate", "--model", model, "--prompt", "And", "--max-new-tokens", "2", "--temperature", "0"},
      {"generate", "--model", model, "--prompt", "And", "--max-new-tokens", "2", "--top-k", "5"},
      {"eval", "--model", model, "--text", text},
      {"eval", "--model", model, "--text", text, "--json"},
      {"eval", "--model", model, "--pairs", pairs},
  };
  const std::string whole = weights();
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  int kind = 0;
  for (const std::string name :
       {"model.norm.weight", "lm_head.weight", "model.layers.1.mlp.experts.7.up_proj.weight"}) {
    std::string bytes = whole;
    uint64_t header = 0;
    std::memcpy(&header, whole.data(), sizeof header);
    const auto entries = nlohmann::json::parse(whole.substr(8, header));
    const size_t begin = 8 + header + entries.at(name).at("data_offsets").at(0).get<size_t>();
    std::memcpy(bytes.data() + begin + 4 * 5, &bad[kind++], 4);
    write_weights(bytes);
    const std::string place = name == "model.norm.weight" ? "place 5" : "row 0, column 5";
    for (const std::vector<std::string>& command : commands) {
      const Outcome outcome = run_program(command);
      EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
      EXPECT_EQ(outcome.out, "");
      EXPECT_NE(outcome.err.find("tensor " + name + " is not finite: "), std::string::npos) << outcome.err;
      EXPECT_NE(outcome.err.find(" at " + place), std::string::npos) << outcome.err;
    }
  }
}

TEST_F(DamagedModel, WhatItsManifestKnowsIsComparedByEveryCommand) {
  fs::copy(sample_->run("run") / "model" / "manifest.json", model_);
  const std::string whole = weights(), model = model_.string();
  std::string flipped = whole;
  flipped[whole.size() / 2] = static_cast<char>(flipped[whole.size() / 2] ^ 1);
  const std::string message = "deeptitan: " + model +
                              "/model.safetensors is not as it was written (manifest.json knows its digest): it is "
                              "damaged; use another copy or checkpoint\n";
  write_weights(flipped);
  const std::string text = sample_->run("compared.txt").string();
  std::ofstream(text) << "And the king saw the river.\n";
  const std::string out = sample_->run("converted").string(), run = sample_->run("begun.toml").string();
  std::ofstream(run) << sample_->toml("begun", "steps = 1\ndtype = \"fp32\"\n");
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"generate", "--model", model, "--prompt", "And"},
        {"eval", "--model", model, "--text", text},
        {"chat", "--model", model, "--chat-template",
         std::string(DT_TEST_DATA_DIR) + "/../configs/chat_template.jinja"},
        {"convert", model, out, "--dtype", "bf16"},
        {"train", run, "--model.initial_checkpoint", model, "--model.name", "", "--model.shape.max_position_embeddings",
         "32"}}) {
    const Outcome outcome = run_program(command);
    EXPECT_EQ(outcome.exit_code, 1) << command[0] << ": " << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.ends_with(message)) << command[0] << ": " << outcome.err;
  }
  EXPECT_FALSE(fs::exists(out));
  write_weights(whole);
  replace("config.json", "\"use_cache\": true", "\"use_cache\":true ");
  const Outcome edited = run_program({"generate", "--model", model, "--prompt", "And", "--max-new-tokens", "2"});
  EXPECT_EQ(edited.exit_code, 0) << edited.err;
  EXPECT_NE(
      edited.err.find("/config.json is not as it was written (manifest.json knows its digest); if nobody edited it, "
                      "it is damaged\n"),
      std::string::npos)
      << edited.err;
}

// By what the tensors are, whatever config.json says.
TEST_F(DamagedModel, Fp8WeightsAreSaidToBeWidened) {
  const fs::path fp8 = sample_->run("fp8");
  ASSERT_EQ(run_program({"convert", model_.string(), fp8.string(), "--dtype", "fp8"}).exit_code, 0);
  auto config = nlohmann::ordered_json::parse(read_file(fp8 / "config.json"));
  for (const bool announced : {true, false}) {
    if (!announced) config.erase("quantization_config");
    write_file(fp8 / "config.json", config.dump());
    const Outcome outcome =
        run_program({"generate", "--model", fp8.string(), "--prompt", "And", "--max-new-tokens", "2"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("the fp8 weights of " + fp8.string() + " ("), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("are widened to "), std::string::npos) << outcome.err;
  }
}

TEST_F(DamagedModel, AnotherShapeIsNamed) {
  replace("config.json", "\"intermediate_size\": 96", "\"intermediate_size\": 64");
  expect_failure({"tensor model.layers.0.mlp.", "the model needs "});
}

TEST_F(DamagedModel, ATokenizerOfAnotherKindIsRefused) {
  replace("tokenizer.json", "\"BPE\"", "\"XYZ\"");
  expect_failure({"tokenizer.json", "XYZ"});
}

TEST_F(DamagedModel, WhatIsMissingIsNamed) {
  fs::remove(model_ / "model.safetensors");
  expect_failure({model_.string()});
  const Outcome outcome = run_program({"generate", "--model", "/no/model", "--prompt", "a"});
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_NE(outcome.err.find("/no/model"), std::string::npos) << outcome.err;
}

TEST_F(DamagedModel, APromptLongerThanTheContextIsRefused) {
  std::string prompt;
  for (int i = 0; i < 40; ++i) prompt += "And the king saw the river. ";
  const Outcome outcome = run_program({"generate", "--model", model_.string(), "--prompt", prompt});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find(" tokens and the model's context 32; shorten it to leave room for an answer"),
            std::string::npos)
      << outcome.err;
}

TEST_F(DamagedModel, APipedPromptIsThePrompt) {
  const auto arguments = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"generate",      "--model", model_.string(), "--max-new-tokens", "6",
                                    "--temperature", "0"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::string expected = run_program(arguments({"--prompt", "And the king"})).out;
  EXPECT_NE(expected, run_program(arguments({"--prompt", ""})).out);
  const std::vector<std::vector<std::string>> ways = {{}, {"--prompt", "-"}, {"-"}, {"--prompt-file", "-"}};
  for (const std::vector<std::string>& way : ways) {
    const Outcome outcome = run_program(arguments(way), {.input = "And the king"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, expected);
  }
  EXPECT_EQ(run_program(arguments({"And the king"})).out, expected);
  const std::string file = sample_->run("prompt.txt").string();
  std::ofstream(file) << "And the king";
  EXPECT_EQ(run_program(arguments({"--prompt-file", file})).out, expected);
  for (const std::vector<std::string>& way : {std::vector<std::string>{"--prompt", "a"}, {"--prompt-file", file}}) {
    const Outcome both = run_program(arguments(way), {.input = "And the king"});
    EXPECT_EQ(both.exit_code, 2);
    EXPECT_EQ(both.out, "");
    EXPECT_NE(both.err.find("and another comes through standard input; leave one out"), std::string::npos) << both.err;
  }
  const Outcome nothing = run_program(arguments({}));
  EXPECT_EQ(nothing.exit_code, 0);
  EXPECT_NE(nothing.err.find("the prompt is empty: the text begins from nothing"), std::string::npos) << nothing.err;
}

TEST_F(DamagedModel, TextThatIsNotUtf8IsReplacedAndCounted) {
  const std::string path = sample_->run("text.bin").string();
  std::ofstream(path, std::ios::binary) << "And the \xff king saw \xfe the river.\n";
  const Outcome outcome = run_program({"eval", "--model", model_.string(), "--text", path});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("2 ill-formed sequences read as U+FFFD"), std::string::npos) << outcome.err;
}

TEST_F(DamagedModel, ConvertsToAnotherTypeAndBack) {
  const std::string bf16 = sample_->run("bf16").string(), fp32 = sample_->run("fp32").string();
  const Outcome to_bf16 = run_program({"convert", sample_->run("run") / "model", bf16, "--dtype", "bf16"});
  EXPECT_EQ(to_bf16.exit_code, 0) << to_bf16.err;
  EXPECT_EQ(to_bf16.out, "");
  EXPECT_TRUE(to_bf16.err.starts_with(bf16 + ": ")) << to_bf16.err;
  EXPECT_NE(to_bf16.err.find(" tensors, "), std::string::npos) << to_bf16.err;
  EXPECT_LT(fs::file_size(bf16 + "/model.safetensors"), fs::file_size(model_ / "model.safetensors") * 3 / 5);
  EXPECT_EQ(run_program({"convert", bf16, fp32, "--dtype", "fp32"}).exit_code, 0);
  // bf16 and its fp32 are the same weights.
  const auto said_by = [](const std::string& model) {
    return run_program({"generate", "--model", model, "--prompt", "And", "--max-new-tokens", "8", "--temperature", "0",
                        "--dtype", "fp32"})
        .out;
  };
  EXPECT_NE(said_by(bf16), "");
  EXPECT_EQ(said_by(bf16), said_by(fp32));

  const Outcome again = run_program({"convert", sample_->run("run") / "model", bf16, "--dtype", "fp32"});
  EXPECT_NE(again.exit_code, 0);
  EXPECT_TRUE(again.err.starts_with("deeptitan: ")) << again.err;
  EXPECT_NE(again.err.find(bf16), std::string::npos) << again.err;
  EXPECT_EQ(again.err.find('\n'), again.err.size() - 1) << again.err;
}

}  // namespace
}  // namespace deeptitan

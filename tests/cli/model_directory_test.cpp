// What commands say of a model directory that is damaged, and of a text that does not fit the model.

#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

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
      {model_.string() + ": tensor model.norm.weight is i32; the model needs f32, bf16, f16, f64 or f8_e4m3"});
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
                        "--dtype", "f32"})
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

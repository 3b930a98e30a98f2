// init: what it writes trains, and the validation loss falls.

#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "core/file.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::run_program;

const std::string kLearningTemplate = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";

// The first and the last validation loss of a run.
std::pair<double, double> validation_losses(const std::filesystem::path& folder) {
  std::istringstream lines(read_file(folder / "metrics.jsonl"));
  std::vector<double> losses;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains("validation_loss")) losses.push_back(json["validation_loss"]);
  }
  if (losses.size() < 2) return {0, 1};
  return {losses.front(), losses.back()};
}

TEST(InitCommand, WhatItWritesTrainsAndLearns) {
  const TemporaryFolder folder;
  const std::string text = folder.write("text.txt", testing::sample_text(4000));
  const auto at = [&](const char* name) { return (folder.path() / name).string(); };
  const auto train = [&](const std::string& file, const std::string& run) {
    // Small steps: the test looks at the direction alone.
    const Outcome outcome =
        run_program({"train", file, "--job.dump_folder", run, "--training.steps", "30", "--training.global_batch_size",
                     "2", "--training.local_batch_size", "2", "--lr_scheduler.warmup_steps", "3", "--validation.freq",
                     "3", "--validation.max_tokens", "1000", "--data.cache_folder", at("cache")});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    const auto [first, last] = validation_losses(run);
    EXPECT_LT(last, first) << file;
  };
  Outcome outcome = run_program({"init", "pretrain", text, "--out", at("new.toml")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "new-tokenizer/tokenizer.json"));
  EXPECT_EQ(run_program({"plan", at("new.toml")}).exit_code, 0);
  train(at("new.toml"), at("new"));

  outcome = run_program({"init", "finetune", text, "--model", at("new") + "/model", "--out", at("more.toml")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  train(at("more.toml"), at("more"));

  std::string chats;
  for (int i = 0; i < 200; ++i) {
    chats +=
        R"({"messages": [{"role": "user", "content": "Who came?"}, {"role": "assistant", "content": "the king and )" +
        std::to_string(i % 7) + " lions.\"}]}\n";
  }
  const std::string chat = folder.write("chats.jsonl", chats);
  const Outcome without =
      run_program({"init", "chat", chat, "--model", at("new") + "/model", "--out", at("chat.toml")});
  EXPECT_EQ(without.exit_code, 2);
  EXPECT_NE(without.err.find("has no chat template; give one with --chat-template FILE"), std::string::npos);
  outcome = run_program({"init", "chat", chat, "--model", at("new") + "/model", "--chat-template", kLearningTemplate,
                         "--out", at("chat.toml")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  train(at("chat.toml"), at("chat"));
}

TEST(InitCommand, MistakesAreNamed) {
  const TemporaryFolder folder;
  const std::string text = folder.write("text.txt", "a few words");
  const std::string out = (folder.path() / "run.toml").string();
  const auto expect = [&](const std::vector<std::string>& arguments, const std::string& message) {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.err.find(message), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  };
  expect({"init"}, "init: expected a command: pretrain, finetune, chat");
  expect({"init", "finetune", text}, "--model is required");
  expect({"init", "pretrain", "/no/file", "--out", out}, "cannot read the text /no/file");
  expect({"init", "pretrain", text, "--out", out}, "too few to learn from and to hold a part out; give more text");
  expect({"init", "finetune", text, "--model", "DeepSeek-V2-Lite", "--out", out},
         "there is no directory DeepSeek-V2-Lite; fetch deepseek-ai/DeepSeek-V2-Lite with: deeptitan download v2-lite "
         "--dir DeepSeek-V2-Lite");
  folder.write("run.toml", "");
  expect({"init", "pretrain", text, "--out", out}, out + " exists already; name another file with --out");
}

}  // namespace
}  // namespace deeptitan

// A conversation through the program, from a pipe and on a terminal.

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "cli/terminal_program.h"
#include "core/file.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using testing::Outcome;
using testing::run_program;
using testing::TerminalProgram;

const std::string kTemplate = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";

class ChatCommand : public ::testing::Test {
 protected:
  // Two models: one that was taught two answers by heart, and one that knows nothing and so never comes to an end, in a
  // context that is longer than any test.
  static void SetUpTestSuite() {
    sample_ = new testing::SampleRun;
    const std::string base = sample_->run("base.toml").string();
    std::ofstream(base) << sample_->toml("base", "steps = 10\ndtype = \"fp32\"\n");
    Outcome outcome = run_program({"train", base, "--model.shape.max_position_embeddings", "200000"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const std::string chats = sample_->run("chats.jsonl").string();
    std::ofstream(chats)
        << R"({"messages": [{"role": "user", "content": "Who came?"}, {"role": "assistant", "content": "the king."}, )"
           R"({"role": "user", "content": "And then?"}, {"role": "assistant", "content": "a lion."}]})"
           "\n"
           R"({"messages": [{"role": "system", "content": "Say no."}, {"role": "user", "content": "Who came?"}, )"
           R"({"role": "assistant", "content": "no prophet."}]})"
           "\n";
    const std::string taught = sample_->run("taught.toml").string();
    std::ofstream(taught)
        << "[job]\ndump_folder = \"" << sample_->run("taught").string()
        << "\"\n[metrics]\nenable_tensorboard = false\n[model]\ninitial_checkpoint = \""
        << (sample_->run("base") / "model").string() << "\"\nchat_template = \"" << kTemplate
        << "\"\n[optimizer]\nlr = 3e-3\nweight_decay = 0\n[training]\nsteps = 60\nseq_len = 96\n"
           "local_batch_size = 1\ndtype = \"fp32\"\n[validation]\nfraction = 0\n[data]\ncache_folder = \""
        << sample_->run("cache").string() << "\"\n[[data.sources]]\nformat = \"chat\"\npath = \"" << chats << "\"\n";
    outcome = run_program({"train", taught});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  static void TearDownTestSuite() { delete sample_; }

  static std::string model(const char* run) { return (sample_->run(run) / "model").string(); }

  // The arguments for a model that answers without chance.
  static std::vector<std::string> arguments(const std::string& directory) {
    return {"chat", "--model", directory, "--temperature", "0", "--dtype", "f32"};
  }
  static Outcome chat(const std::string& input) {
    return run_program(arguments(model("taught")), {.input = input, .largest_file_bytes = 0});
  }

  static const testing::SampleRun* sample_;
};

const testing::SampleRun* ChatCommand::sample_ = nullptr;

TEST_F(ChatCommand, AConversationFromAPipeIsPlainText) {
  const Outcome outcome = chat("Who came?\nAnd then?\n/exit\nnot read\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "user: Who came?\nassistant: the king.\nuser: And then?\nassistant: a lion.\nuser: /exit\n");
  EXPECT_EQ(outcome.err.find('\033'), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(" tokens/s"), std::string::npos) << outcome.err;
}

TEST_F(ChatCommand, TheEndOfTheInputEndsTheConversation) {
  const Outcome outcome = chat("Who came?");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "user: Who came?\nassistant: the king.\nuser: \n");
}

TEST_F(ChatCommand, CommandsChangeTheConversation) {
  const std::string saved = sample_->run("saved.json").string();
  const Outcome outcome =
      chat("Who came?\n/reset\n/system Say no.\nWho came?\n/save " + saved + "\n/sistem x\n/save\n \n/exit\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "user: Who came?\nassistant: the king.\nuser: /reset\nuser: /system Say no.\nuser: Who came?\n"
            "assistant: no prophet.\nuser: /save " +
                saved + "\nuser: /sistem x\nuser: /save\nuser:  \nuser: /exit\n");
  for (const std::string& line : std::vector<std::string>{
           "the conversation starts again", "the system message counts from the next question on",
           "3 messages written to " + saved,
           "warning: /sistem: unknown command, did you mean /system?; there are /reset, /system TEXT, /save FILE and "
           "/exit",
           "warning: /save FILE: give the file to write the conversation to"}) {
    EXPECT_NE(outcome.err.find(line + "\n"), std::string::npos) << line << "\n" << outcome.err;
  }
  const auto messages = nlohmann::json::parse(read_file(saved));
  EXPECT_EQ(messages, nlohmann::json::parse(
                          R"([{"role": "system", "content": "Say no."}, {"role": "user", "content": "Who came?"},
                              {"role": "assistant", "content": "no prophet."}])"));
}

TEST_F(ChatCommand, WhatCannotBeDoneDoesNotEndTheConversation) {
  const Outcome outcome = chat("/save /no/such/folder/file.json\nWho came?\n");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.out.find("assistant: the king.\n"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("warning: "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/no/such/folder/file.json"), std::string::npos) << outcome.err;
}

TEST_F(ChatCommand, AModelWithoutATemplateIsToldWhereOneGoes) {
  const Outcome outcome = run_program(arguments(model("base")));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "deeptitan: " + model("base") +
                             " has no chat template: a directory has one in chat_template.jinja, in chat_templates/ or "
                             "as chat_template in tokenizer_config.json; give one with --chat-template FILE\n");
}

TEST_F(ChatCommand, RolesAreColouredOnATerminal) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  TerminalProgram program(arguments(model("taught")));
  EXPECT_TRUE(
      program.wait_for("a context of 8192 tokens; /reset, /system TEXT, /save FILE, /exit; Ctrl-C stops an answer"))
      << program.shown();
  EXPECT_TRUE(program.wait_for("\033[1;32muser\033[0m: ")) << program.shown();
  program.type("Who came?\n");
  EXPECT_TRUE(program.wait_for("\033[1;36massistant\033[0m: the king.\033[0m\r\n")) << program.shown();
  EXPECT_TRUE(program.wait_for("\033[1;32muser\033[0m: ")) << program.shown();
  program.type("/exit\n");
  EXPECT_EQ(program.finish(), 0);
}

TEST_F(ChatCommand, CtrlCStopsTheAnswerAndNotTheProgram) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  std::vector<std::string> words = arguments(model("base"));
  words.insert(words.end(), {"--chat-template", kTemplate, "--context", "200000", "--max-new-tokens", "190000"});
  TerminalProgram program(words);
  const std::string prompt = "\033[1;32muser\033[0m: ";
  ASSERT_TRUE(program.wait_for(prompt)) << program.shown();
  program.type("\x03");  // where no answer is under way, it leaves the line
  ASSERT_TRUE(program.wait_for(prompt)) << program.shown();
  for (int question = 0; question < 2; ++question) {
    program.type("Who came?\n");
    ASSERT_TRUE(program.wait_for("\033[1;36massistant\033[0m: ")) << program.shown();
    program.type("\x03");
    ASSERT_TRUE(program.wait_for("\033[0m\r\n")) << program.shown();
    ASSERT_TRUE(program.wait_for("stopped")) << program.shown();
    ASSERT_TRUE(program.wait_for(prompt)) << program.shown();
    program.type("/reset\n");  // so that the next answer is this one, which does not end
    ASSERT_TRUE(program.wait_for(prompt)) << program.shown();
  }
  program.type("\x04");
  EXPECT_EQ(program.finish(), 0) << program.shown();
}

}  // namespace
}  // namespace deeptitan

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
    // Renders an answer that the model has learnt to be over: what follows is the end.
    std::ofstream(sample_->run("empty.jinja")) << "{{ bos_token }}<｜User｜>Who came?<｜Assistant｜>the king.";
  }
  static void TearDownTestSuite() { delete sample_; }

  void SetUp() override {
    ::setenv("DEEPTITAN_HISTORY", sample_->run("history").c_str(), 1);
    ::setenv("TERM", "xterm-256color", 1);
  }

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
           "warning: /sistem: unknown command, did you mean /system?; there are /help, /reset, /undo, /retry, /system, "
           "/set, /save, /load, /exit",
           "warning: /save FILE: give the file to write the conversation to"}) {
    EXPECT_NE(outcome.err.find(line + "\n"), std::string::npos) << line << "\n" << outcome.err;
  }
  const auto messages = nlohmann::json::parse(read_file(saved));
  EXPECT_EQ(messages, nlohmann::json::parse(
                          R"([{"role": "system", "content": "Say no."}, {"role": "user", "content": "Who came?"},
                              {"role": "assistant", "content": "no prophet."}])"));
}

TEST_F(ChatCommand, AQuestionIsTakenBackRepeatedAndGoneOnWith) {
  const std::string saved = sample_->run("again.json").string();
  const Outcome outcome = chat("/undo\n/retry\nWho came?\nAnd then?\n/retry\n/undo\nAnd then?\n/save " + saved +
                               "\n/reset\n/load " + saved + "\n/undo\nAnd then?\n/load /no/file\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  int answers = 0;
  for (size_t at = 0; (at = outcome.out.find("assistant: a lion.\n", at)) != std::string::npos; ++at) ++answers;
  EXPECT_EQ(answers, 4) << outcome.out;
  for (const std::string& line : std::vector<std::string>{
           "warning: /undo: there is no question yet", "warning: /retry: there is no question yet",
           "at temperature 0 the answer is the same again", "taken back: And then?", "4 messages read from " + saved}) {
    EXPECT_NE(outcome.err.find(line + "\n"), std::string::npos) << line << "\n" << outcome.err;
  }
  EXPECT_NE(outcome.err.find("/no/file"), std::string::npos) << outcome.err;
}

TEST_F(ChatCommand, SettingsAreShownChangedAndChecked) {
  const Outcome outcome = chat("/set\n/set top_k 3\n/set temperature -1\n/set tempreture 1\n/set seed x\n/help\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const std::string& line : std::vector<std::string>{
           "temperature 0, top-k 0, top-p 1, min-p 0, repetition-penalty 1, seed 0, max-new-tokens 2048",
           "temperature 0, top-k 3, top-p 1, min-p 0, repetition-penalty 1, seed 0, max-new-tokens 2048",
           "warning: temperature = -1: expected 0 (the likeliest token) or more",
           "warning: /set seed: expected a number, not 'x'"}) {
    EXPECT_NE(outcome.err.find(line + "\n"), std::string::npos) << line << "\n" << outcome.err;
  }
  EXPECT_NE(outcome.err.find("/set: there is no 'tempreture'; did you mean 'temperature'?"), std::string::npos);
  EXPECT_NE(outcome.err.find("  /load FILE "), std::string::npos) << outcome.err;
}

TEST_F(ChatCommand, QuotesHoldAQuestionOfSeveralLines) {
  const std::string saved = sample_->run("lines.json").string();
  const Outcome outcome = chat("\"\"\"Who\n\ncame?\"\"\"\n/save " + saved + "\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(read_file(saved))[0]["content"], "Who\n\ncame?");
}

TEST_F(ChatCommand, QuietLeavesOutStatisticsAndGreeting) {
  std::vector<std::string> quiet = arguments(model("taught"));
  quiet.push_back("--quiet");
  const Outcome outcome = run_program(quiet, {.input = "Who came?\n"});
  EXPECT_EQ(outcome.out, "user: Who came?\nassistant: the king.\nuser: \n");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(ChatCommand, TheTemperatureIsSaidWithWhereItComesFrom) {
  const auto said = [&](const std::string& directory) {
    return run_program({"chat", "--model", directory, "--dtype", "f32"}).err;
  };
  EXPECT_NE(said(model("taught")).find("temperature 0.7 (the model names none)"), std::string::npos);
  const fs::path copy = sample_->run("warm");
  fs::copy(model("taught"), copy, fs::copy_options::recursive);
  std::ofstream(copy / "generation_config.json") << R"({"do_sample": true, "temperature": 0.3})";
  EXPECT_NE(said(copy.string()).find("temperature 0.3 (generation_config.json)"), std::string::npos);
}

TEST_F(ChatCommand, AnEmptyAnswerHasItsLabel) {
  const Outcome outcome = run_program({"chat", "--model", model("taught"), "--dtype", "f32", "--temperature", "0",
                                       "--chat-template", sample_->run("empty.jinja").string()},
                                      {.input = "Who came?\n"});
  EXPECT_EQ(outcome.out, "user: Who came?\nassistant: (an empty answer)\nuser: \n") << outcome.err;
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
      program.wait_for("a context of 8192 tokens, temperature 0 (--temperature); /help, /reset, /undo, /retry, "
                       "/system, /set, /save, /load, /exit; Ctrl-C stops an answer"))
      << program.shown();
  EXPECT_TRUE(program.wait_for("\033[1;32muser\033[0m: ")) << program.shown();
  program.type("Who came?\n");
  EXPECT_TRUE(program.wait_for("\033[1;36massistant\033[0m: the king.\033[0m\r\n")) << program.shown();
  EXPECT_TRUE(program.wait_for("\033[1;32muser\033[0m: ")) << program.shown();
  program.type("/exit\n");
  EXPECT_EQ(program.finish(), 0);
}

TEST_F(ChatCommand, ALineOfAnyLengthComesInWhole) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  const std::string saved = sample_->run("long.json").string();
  std::string line = "x";
  while (line.size() < 5003) line += " \u00e4bcd";
  for (const bool bracketed : {false, true}) {
    TerminalProgram program(arguments(model("taught")));
    ASSERT_TRUE(program.wait_for("\033[1;32muser\033[0m: ")) << program.shown();
    program.type(bracketed ? "\033[200~" + line + "\rand more\033[201~\n" : line + "\n");
    ASSERT_TRUE(program.wait_for("tokens/s")) << program.shown();
    program.type("/save " + saved + "\n");
    ASSERT_TRUE(program.wait_for("messages written")) << program.shown();
    program.type("/exit\n");
    EXPECT_EQ(program.finish(), 0);
    const std::string found = nlohmann::json::parse(read_file(saved))[0]["content"];
    const std::string expected = bracketed ? line + "\nand more" : line;
    EXPECT_TRUE(found == expected) << bracketed << ": " << found.size() << " bytes, the last "
                                   << found.substr(found.size() - 30);
  }
}

TEST_F(ChatCommand, WideCharactersAreEditedAtAnyWidth) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  const std::string saved = sample_->run("wide.json").string();
  // Characters of two columns and of none, over several rows of the narrow terminals; then two are taken back.
  std::string line;
  for (int i = 0; i < 40; ++i) line += "\u738b\u304c e\u0301 ";
  for (const int columns : {60, 80, 200}) {
    fs::remove(saved);
    TerminalProgram program(arguments(model("taught")), columns);
    ASSERT_TRUE(program.wait_for("user")) << program.shown();
    program.type(line + "\u738b\u738b\177\177\001>\005<\n");
    ASSERT_TRUE(program.wait_for("tokens/s")) << program.shown();
    program.type("/save " + saved + "\n");
    ASSERT_TRUE(program.wait_for("messages written")) << program.shown();
    program.type("/exit\n");
    EXPECT_EQ(program.finish(), 0);
    EXPECT_EQ(nlohmann::json::parse(read_file(saved))[0]["content"], ">" + line + "<") << columns;
  }
}

TEST_F(ChatCommand, LinesAreEditedAndRememberedAcrossSessions) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  const std::string saved = sample_->run("edited.json").string();
  fs::remove(sample_->run("history"));
  {
    TerminalProgram program(arguments(model("taught")));
    ASSERT_TRUE(program.wait_for("user")) << program.shown();
    program.type("ho camX\177\001W\005e?\n");  // Backspace, Ctrl-A, Ctrl-E
    ASSERT_TRUE(program.wait_for("the king.")) << program.shown();
    ASSERT_TRUE(program.wait_for("user")) << program.shown();  // before it the terminal would take Ctrl-D for itself
    program.type("\004");
    EXPECT_EQ(program.finish(), 0) << program.shown();
  }
  TerminalProgram program(arguments(model("taught")));
  ASSERT_TRUE(program.wait_for("user")) << program.shown();
  program.type("\033[A\n");  // up
  ASSERT_TRUE(program.wait_for("the king.")) << program.shown();
  program.type("/save " + saved + "\n/exit\n");
  EXPECT_EQ(program.finish(), 0);
  EXPECT_EQ(nlohmann::json::parse(read_file(saved))[0]["content"], "Who came?");
}

TEST_F(ChatCommand, CtrlCStopsTheAnswerAndNotTheProgram) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  std::vector<std::string> words = arguments(model("base"));
  words.insert(words.end(), {"--chat-template", kTemplate, "--context", "200000", "--max-new-tokens", "190000"});
  TerminalProgram program(words);
  const std::string prompt = "\033[1;32muser\033[0m: ";
  ASSERT_TRUE(program.wait_for(prompt)) << program.shown();
  EXPECT_TRUE(program.keeps_output());
  program.type("\x03");  // where no answer is under way, it leaves the line
  ASSERT_TRUE(program.wait_for(prompt)) << program.shown();
  for (int question = 0; question < 2; ++question) {
    program.type("Who came?\n");
    ASSERT_TRUE(program.wait_for("\033[1;36massistant\033[0m: ")) << program.shown();
    EXPECT_TRUE(program.keeps_output());  // else the terminal may throw away the word that it has stopped
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

// Every mistake has one message that names it. The options come from what --help says, so that a new one is tried too.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/program.h"
#include "cli/trained_model.h"
#include "core/file.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::run_program;
using Words = std::vector<std::string>;

struct HelpOption {
  std::string name;   // "--context", or a positional's, such as CONFIG
  std::string takes;  // "TOKENS"; empty for a flag

  bool positional() const { return !name.starts_with("-"); }
};

std::string joined(const Words& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// The options that `deeptitan COMMAND --help` lists; of several spellings the first long one.
std::vector<HelpOption> options_of(Words command) {
  command.emplace_back("--help");
  std::istringstream help(run_program(command).out);
  static const std::regex kEntry("^ {2,4}(-[-a-zA-Z,]+|[A-Z]+)(?: ([^ ]+))?(?: \\.\\.\\.)?(?: {2,}.*)?$");
  std::vector<HelpOption> options;
  for (std::string line; std::getline(help, line);) {
    std::smatch match;
    if (!std::regex_match(line, match, kEntry)) continue;
    std::string name = match[1];
    if (const size_t at = name.find("--"); at != std::string::npos) name.erase(0, at);
    name = name.substr(0, name.find(','));
    if (name != "--help") options.push_back({name, match[2]});
  }
  return options;
}

// "train", "init pretrain" ...: all that --help of the program and of its commands lists.
std::vector<Words> commands_below(const Words& command) {
  Words help = command;
  help.emplace_back("--help");
  std::istringstream lines(run_program(help).out);
  std::vector<Words> found;
  bool listed = false;
  static const std::regex kEntry("^ {2}([a-z]+) {2,}.*$");
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (line.starts_with("Subcommands:")) listed = true;
    if (!listed || !std::regex_match(line, match, kEntry)) continue;
    Words below = command;
    below.push_back(match[1]);
    for (Words& leaf : commands_below(below)) found.push_back(std::move(leaf));
  }
  if (found.empty()) found.push_back(command);
  return found;
}

class Mistakes : public testing::TrainedModelTest {
 protected:
  static void SetUpTestSuite() {
    TrainedModelTest::SetUpTestSuite();
    write("prompt.txt", "And the king");
    write("pairs.jsonl", "{\"context\": \"And\", \"continuation\": \" the\"}\n");
    write("ids.json", "[5, 6, 7]\n");
    write("input.jsonl", "{\"prompt\": \"And\"}\n");
    write("messages.json", R"([{"role": "user", "content": "a"}])");
    std::string chats;
    for (int i = 0; i < 400; ++i) {
      chats +=
          R"({"messages": [{"role": "user", "content": "Who came?"}, {"role": "assistant", "content": "the king"}]})";
      chats += "\n";
    }
    write("chats.jsonl", chats);
    std::filesystem::create_directories(sample_->run("bad/directory"));
    std::filesystem::create_symlink("loop", sample_->run("bad/loop"));  // nothing opens it
    std::filesystem::create_directories(sample_->run("new"));
    write("template.jinja",
          "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token "
          "}}{% endif "
          "%}{% endfor %}");
    write("tools.json", "[]");
    write("bad/empty", "");
    write("bad/binary", std::string("\x7f"
                                    "ELF\x02\x01\0\xff\xfe\x00\x80\xc3(",
                                    14) +
                            std::string(64, '\xff'));
  }

  static std::string at(const std::string& name) { return sample_->run(name).string(); }
  static std::string model() { return at("run") + "/model"; }

  // What each command needs to begin, by the option that takes it, so that one of them can be replaced.
  static const std::map<std::string, std::vector<std::pair<std::string, std::string>>>& needed() {
    static const auto* all = new auto(all_needed());
    return *all;
  }
  static std::map<std::string, std::vector<std::pair<std::string, std::string>>> all_needed() {
    const std::string run = at("run.toml"), text = sample_->path() / "text.txt";
    return {{"train", {{"CONFIG", run}}},
            {"init pretrain", {{"DATA", text}, {"--out", at("new/init.toml")}}},
            {"init finetune", {{"DATA", text}, {"--model", model()}, {"--out", at("new/init.toml")}}},
            {"init chat",
             {{"DATA", at("chats.jsonl")},
              {"--model", model()},
              {"--chat-template", at("template.jinja")},
              {"--out", at("new/init.toml")}}},
            {"generate", {{"--model", model()}, {"--prompt", "And"}, {"--max-new-tokens", "1"}}},
            {"chat", {{"--model", model()}, {"--chat-template", at("template.jinja")}}},
            {"eval", {{"--model", model()}, {"--text", text}}},
            {"tokenizer train", {{"--text", text}, {"--out", at("new/tokenizer")}, {"--vocab-size", "300"}}},
            {"tokenizer encode", {{"--model", model()}, {"--file", at("prompt.txt")}}},
            {"tokenizer decode", {{"--model", model()}, {"IDS", "5"}}},
            {"tokenizer render",
             {{"--model", model()}, {"--messages", at("messages.json")}, {"--chat-template", at("template.jinja")}}},
            {"inspect", {{"MODEL", model()}}},
            {"plan", {{"CONFIG", run}}},
            {"bench train", {{"TARGET", run}, {"--steps", "1"}}},
            {"bench decode", {{"TARGET", model()}, {"--steps", "1"}, {"--tokens", "8"}}},
            {"bench prefill", {{"TARGET", model()}, {"--steps", "1"}, {"--tokens", "8"}}},
            {"convert", {{"IN", model()}, {"OUT", at("new/converted")}, {"--dtype", "bf16"}}},
            {"download", {{"MODEL", "no-such-owner/model"}}}};
  }

  // Options that take the place of another in its group.
  static std::string replaces(const std::string& option) {
    static const std::map<std::string, std::string> kGroups = {
        {"--prompt-file", "--prompt"}, {"--messages", "--prompt"}, {"--input", "--prompt"}, {"PROMPT", "--prompt"},
        {"--token-ids", "--text"},     {"--pairs", "--text"},      {"--requests", "--text"}};
    const auto found = kGroups.find(option);
    return found == kGroups.end() ? option : found->second;
  }

  // The command with what it needs, and `option` with `value` in place of its own or of that which it replaces.
  static Words with(const Words& command, const HelpOption& option, const std::string& value) {
    Words words = command;
    const std::string name = joined(command);
    const bool own_file = name == "tokenizer decode" && option.name == "--file";
    for (const auto& [key, usual] : needed().at(name)) {
      if (key == option.name || (name != "tokenizer render" && key == replaces(option.name))) continue;
      if (own_file && key == "IDS") continue;
      if (name == "tokenizer render" && option.name == "--model" && key == "--chat-template") continue;
      if (key.starts_with("-")) words.push_back(key);
      words.push_back(usual);
    }
    if ((option.name == "--template-var" || option.name == "--tools" || option.name == "--chat-template") &&
        name == "generate") {
      words.emplace_back("--chat");
    }
    if (option.name == "--timeline") words.emplace_back("--parallelism.pipeline_parallel_degree=2");
    if (!option.positional()) {
      words.push_back(option.name + "=" + value);
      return words;
    }
    // Positionals of a command stand in the order of its help.
    size_t place = command.size();
    if (option.name == "OUT") ++place;
    words.insert(words.begin() + static_cast<std::ptrdiff_t>(place), value);
    return words;
  }

  // One message, by the program and in its own words, that names what is wrong.
  static void expect_mistake(const Words& words, const Outcome& outcome, const Words& names) {
    const std::string what = joined(words) + "\n" + outcome.err;
    EXPECT_TRUE(outcome.exit_code == 2 || outcome.exit_code == 1) << outcome.exit_code << " " << what;
    EXPECT_EQ(outcome.out, "") << what;
    std::istringstream lines(outcome.err);
    int errors = 0;
    for (std::string line; std::getline(lines, line);) {
      errors += line.starts_with("deeptitan: ") ? 1 : 0;
      EXPECT_TRUE(line.starts_with("deeptitan: ") || line.starts_with("warning: ")) << what;
    }
    EXPECT_EQ(errors, 1) << what;
    EXPECT_LT(outcome.err.size(), 1500u) << what;
    const bool named = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return outcome.err.find(name) != std::string::npos;
    });
    EXPECT_TRUE(named) << "none of " << joined(names) << " is named: " << what;
    for (const char* foreign :
         {"filesystem error", "json.exception", "std::", "basic_string", "vector::", "stoi", "please report"}) {
      EXPECT_EQ(outcome.err.find(foreign), std::string::npos) << what;
    }
    static const std::regex kAdvice(
        "expected|cannot|does not|is missing|no such|holds|is empty|not valid|damaged|there is no|is not a|has "
        "neither|did you mean|give "
        "|needs |set |save it");
    EXPECT_TRUE(std::regex_search(outcome.err, kAdvice)) << what;
  }
};

TEST_F(Mistakes, EveryCommandIsTried) {
  std::set<std::string> found, tried;
  for (const Words& command : commands_below({})) found.insert(joined(command));
  for (const auto& [command, words] : needed()) tried.insert(command);
  EXPECT_EQ(found, tried);
}

TEST_F(Mistakes, AnOptionWithoutItsValueIsNamed) {
  for (const Words& command : commands_below({})) {
    for (const HelpOption& option : options_of(command)) {
      if (option.positional() || option.takes.empty()) continue;
      Words words = command;
      words.push_back(option.name);
      const Outcome outcome = run_program(words);
      EXPECT_EQ(outcome.err, "deeptitan: " + joined(command) + ": " + option.name + " needs a value (see deeptitan " +
                                 joined(command) + " --help)\n");
      EXPECT_EQ(outcome.exit_code, 2);
    }
  }
}

TEST_F(Mistakes, AFlagWithAValueIsNamed) {
  for (const Words& command : commands_below({})) {
    for (const HelpOption& option : options_of(command)) {
      if (option.positional() || !option.takes.empty()) continue;
      const Words words = with(command, option, "perhaps");
      const Outcome outcome = run_program(words, {.input = ""});
      expect_mistake(words, outcome, {option.name});
      EXPECT_EQ(outcome.exit_code, 2);
    }
  }
}

TEST_F(Mistakes, AValueOfTheWrongKindIsNamed) {
  static const std::set<std::string> kNumbers = {"TOKENS", "STEPS",   "STEP",  "THREADS", "RANKS", "TIMES",    "FILES",
                                                 "NUMBER", "ANSWERS", "TEXTS", "BYTES",   "ID",    "SEQUENCES"};
  static const std::set<std::string> kOther = {"TEXT",     "FILE",       "DIR",     "MODEL", "PATH",
                                               "FILE|DIR", "FILE|MODEL", "PATTERN", "NAME"};
  for (const Words& command : commands_below({})) {
    for (const HelpOption& option : options_of(command)) {
      Words values;
      if (kNumbers.contains(option.takes)) {
        values = {"x", "", "-7", "7x", "1e999", " 7"};
        if (option.takes != "NUMBER") values.insert(values.end(), {"1.5", "99999999999999999999"});
      } else if (option.takes == "DEVICE") {
        values = {"gpu", "", "cuda:x", "cuda:-1"};
      } else if (option.takes == "NAME=VALUE") {
        values = {"thinking", "=true", ""};
      } else if (kOther.contains(option.takes) || option.takes.empty()) {
        continue;
      } else {
        ASSERT_NE(option.takes.find('|'), std::string::npos)
            << joined(command) << ": a new kind of value, " << option.takes << ": say what is wrong for it";
        values = {"perhaps", ""};
      }
      for (const std::string& value : values) {
        const Words words = with(command, option, value);
        const Outcome outcome = run_program(words, {.input = ""});
        expect_mistake(words, outcome, {option.name});
        EXPECT_EQ(outcome.exit_code, 2) << joined(words);
      }
    }
  }
}

// What a path may be besides what is wanted; some mean something.
TEST_F(Mistakes, APathThatCannotBeReadIsNamed) {
  static const std::set<std::string> kWritten = {"--out", "OUT", "--profile", "--timeline", "--dir"};
  // Nothing is read, or what is no UTF-8 with a warning.
  static const std::set<std::string> kMeant = {"generate --prompt-file empty",  "generate --prompt-file binary",
                                               "tokenizer encode --file empty", "tokenizer encode --file binary",
                                               "tokenizer decode --file empty", "eval --requests empty"};
  for (const Words& command : commands_below({})) {
    if (joined(command) == "download") continue;
    for (const HelpOption& option : options_of(command)) {
      static const std::set<std::string> kPaths = {"FILE", "DIR", "MODEL", "PATH", "FILE|DIR", "FILE|MODEL"};
      if (!kPaths.contains(option.takes) || kWritten.contains(option.name)) continue;
      for (const std::string kind : {"missing", "directory", "empty", "binary", "loop"}) {
        const std::string which = joined(command) + " " + option.name + " " + kind;
        if (kMeant.contains(which)) continue;
        const std::string path = at("bad/" + kind);
        const Words words = with(command, option, path);
        SCOPED_TRACE(which);
        expect_mistake(words, run_program(words, {.input = ""}), {path});
      }
    }
  }
}

// Wherever a model is asked for, a word that is none gets the name that was meant.
TEST_F(Mistakes, AWordThatIsNoModelGetsTheNearestName) {
  int asked = 0;
  for (const Words& command : commands_below({})) {
    for (const HelpOption& option : options_of(command)) {
      const bool takes_model = option.takes == "MODEL" || option.takes == "FILE|MODEL" || option.name == "MODEL" ||
                               (option.name == "TARGET" && joined(command) != "bench train");
      if (!takes_model) continue;
      ++asked;
      const Words words = with(command, option, "v2lite");
      const Outcome outcome = run_program(words, {.input = ""});
      SCOPED_TRACE(option.name);
      expect_mistake(words, outcome, {"; did you mean 'v2-lite'?"});
      EXPECT_EQ(outcome.exit_code, 2) << joined(words);
    }
  }
  EXPECT_GE(asked, 13);
}

TEST_F(Mistakes, APathThatCannotBeWrittenIsNamed) {
  static const std::set<std::string> kWritten = {"--out", "OUT", "--profile", "--timeline"};
  for (const Words& command : commands_below({})) {
    for (const HelpOption& option : options_of(command)) {
      if (!kWritten.contains(option.name)) continue;
      for (const std::string folder : {"/proc/no", "/dev/null"}) {
        const Words words = with(command, option, folder + "/such");
        const Outcome outcome = run_program(words, {.input = ""});
        SCOPED_TRACE(joined(words));
        EXPECT_NE(outcome.exit_code, 0);
        EXPECT_NE(outcome.err.find(folder), std::string::npos) << outcome.err;
        EXPECT_EQ(outcome.err.find("filesystem error"), std::string::npos) << outcome.err;
      }
    }
  }
}

// A broken line is named by file:line in every format of lines.
TEST_F(Mistakes, ABrokenLineIsNamedByItsNumber) {
  struct Format {
    Words command;
    std::string whole;
  };
  const std::string chat = R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})";
  const std::vector<Format> formats = {
      {{"eval", "--model", model(), "--text"}, R"({"text": "And the king"})"},
      {{"eval", "--model", model(), "--pairs"}, R"({"context": "And", "continuation": " the"})"},
      {{"eval", "--model", model(), "--requests"}, R"({"info": true})"},
      {{"generate", "--model", model(), "--max-new-tokens", "1", "--input"}, R"({"prompt": "And"})"},
      {{"tokenizer", "decode", "--model", model(), "--file"}, "[5, 6]"},
      {{"init", "pretrain", "--out", at("new/lines.toml")}, R"({"text": "And the king"})"},
      {{"init", "chat", "--out", at("new/lines.toml"), "--model", model(), "--chat-template", at("template.jinja")},
       chat},
      {{"train", at("run.toml"), "--job.dump_folder", at("new/lines"), "--data.sources"},
       R"({"text": "And the king"})"},
      {{"train", at("run.toml"), "--job.dump_folder", at("new/lines"), "--model.chat_template", at("template.jinja"),
        "--data.sources"},
       chat}};
  for (const Format& format : formats) {
    for (const std::string broken : {"{\"text\": ", "nonsense", "3", "{}", "{\"text\": \"a\", \"text\": \"b\"}",
                                     "{\"a\": 1} x", "[\"a\"", "null", "\"\xff\""}) {
      // A text by itself is a document.
      if (broken.front() == '"' && format.whole.find("And the king") != std::string::npos) continue;
      const std::string blank = format.command[1] == "decode" ? "[]" : "";
      const std::string path = write("lines.jsonl", format.whole + "\n" + blank + "\n" + format.whole + "\r\n" +
                                                        broken + "\n" + format.whole + "\n");
      Words words = format.command;
      if (words.back() == "--data.sources") {
        const bool is_chat = format.whole == chat;
        words.push_back("[{path = \"" + path + "\"" + (is_chat ? ", format = \"chat\"" : "") + "}]");
      } else {
        words.push_back(path);
      }
      const Outcome outcome = run_program(words, {.input = ""});
      SCOPED_TRACE(broken);
      EXPECT_NE(outcome.exit_code, 0) << joined(words) << outcome.out;
      EXPECT_NE(outcome.err.find(path + ":4: "), std::string::npos) << joined(words) << "\n" << outcome.err;
      EXPECT_EQ(outcome.err.find(path + ":4: " + path), std::string::npos) << outcome.err;
    }
  }
}

}  // namespace
}  // namespace deeptitan

// The command lines that README.md and docs/ show: their commands and options exist, and they run as they stand there.

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/program.h"
#include "core/file.h"
#include "support/sample_run.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

// The words after the program's name on a line such as "    $ build/release/deeptitan train run.toml \"; empty for a
// line that shows no command.
std::vector<std::string> shown_command(const std::string& line) {
  std::istringstream words(line);
  std::string word;
  std::vector<std::string> result;
  words >> word;
  if (word == "$") words >> word;
  if (word != "deeptitan" && word != "build/release/deeptitan" && word != "build/cuda/deeptitan") return {};
  while (words >> word && word != "|" && word != "#") result.push_back(word);
  return result;
}

// --help of the command that `words` begin with: two words where the first has commands of its own.
std::string help_of(const std::vector<std::string>& words) {
  static std::map<std::string, std::string> known;
  const bool nested = words.size() > 1 && (words[0] == "tokenizer" || words[0] == "bench" || words[0] == "init");
  const std::string name = nested ? words[0] + " " + words[1] : words[0];
  if (!known.contains(name)) {
    std::vector<std::string> arguments = {words[0]};
    if (nested) arguments.push_back(words[1]);
    arguments.emplace_back("--help");
    const testing::Outcome outcome = testing::run_program(arguments);
    known[name] = outcome.exit_code == 0 ? outcome.out : "";
  }
  return known[name];
}

// README.md first.
std::vector<fs::path> pages() {
  const fs::path root = fs::path(DT_TEST_DATA_DIR).parent_path();
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  found.insert(found.begin(), root / "README.md");
  return found;
}

TEST(DocumentedCommands, ExistWithTheirOptions) {
  int64_t commands = 0;
  for (const fs::path& page : pages()) {
    std::istringstream text(read_file(page));
    for (std::string line; std::getline(text, line);) {
      const std::vector<std::string> words = shown_command(line);
      if (words.empty()) continue;
      ++commands;
      if (words[0].starts_with("-")) continue;  // deeptitan --help
      const std::string help = help_of(words);
      EXPECT_NE(help, "") << page.string() << ": " << line;
      for (const std::string& word : words) {
        const std::string option = word.substr(0, word.find('='));
        // --section.key is for docs/config.md, which has a test of its own.
        if (!option.starts_with("--") || option.find('.') != std::string::npos) continue;
        EXPECT_NE(help.find("  " + option + " "), std::string::npos)
            << page.string() << ": " << option << " in " << line;
      }
    }
  }
  EXPECT_GE(commands, 15);  // the README shows every command
}

// Commands that are not run, by how they begin, and why.
const std::map<std::string, std::string> kNotRun = {
    {"scripts/", "installs, builds and trains for minutes; a job of its own in CI"},
    {"tests/run", "lies in a tarball; tests/cli/dist_test unpacks one"},
    {"cmake ", "builds"},
    {"build/cuda/deeptitan ", "needs a build with CUDA and a GPU"},
    {"build/release/deeptitan download ", "needs the network"},
    {"mpirun ", "refuses to run as root; tests/cli/ranks_test.cpp starts it"},
    {"srun ", "needs Slurm"},
};

// What a command ends with where it is not 0: the page shows what goes wrong.
const std::map<std::string, int> kExitCodes = {
    {"build/release/deeptitan inspect v2-lit", 2},
    {"build/release/deeptitan plan configs/tiny_v3.toml --training.local_batch_size 8 --memory 300MB", 1},
};

// What would take minutes is run for less, and ids are those of the text that stands in for the Bible.
const std::map<std::string, std::string> kRunInstead = {
    {"build/release/deeptitan train configs/tiny_v3.toml --resume auto --training.steps 2000",
     "build/release/deeptitan train configs/tiny_v3.toml --resume auto --training.steps 4"},
    {"build/release/deeptitan train configs/finetune_chat.toml",
     "build/release/deeptitan train configs/finetune_chat.toml --training.steps 3"},
    {"printf 'Who went into the ark?\\nAnd why?\\n' | build/release/deeptitan chat --model runs/chat/model "
     "--temperature 0",
     "printf 'Who went into the ark?\\nAnd why?\\n' | build/release/deeptitan chat --model runs/chat/model "
     "--temperature 0 "
     "--max-new-tokens 8"},
    {"build/release/deeptitan tokenizer decode --model runs/demo/model 45 82 263 2190 393 3454 263 801 272 263 670 18",
     "build/release/deeptitan tokenizer decode --model runs/demo/model 45 82 263 219 39 34 263 80 272 263 67 18"},
    {"build/release/deeptitan train configs/tiny_v3.toml --ranks 2 --overwrite",
     "build/release/deeptitan train configs/tiny_v3.toml --ranks 2 --overwrite --training.steps 2"},
    {"build/release/deeptitan train chat.toml",
     "build/release/deeptitan train chat.toml --training.steps 2 --validation.freq 2"},
    {"build/release/deeptitan bench train configs/tiny_v3.toml --steps 10",
     "build/release/deeptitan bench train configs/tiny_v3.toml --steps 2"},
    {"build/release/deeptitan bench decode runs/demo/model --tokens 512",
     "build/release/deeptitan bench decode runs/demo/model --tokens 512 --steps 3"},
    {"build/release/deeptitan bench prefill runs/demo/model --json",
     "build/release/deeptitan bench prefill runs/demo/model --json --steps 2"},
};

struct ShellOutcome {
  int exit_code = -1;
  std::string output;  // of both kinds
};

ShellOutcome run_in_shell(const fs::path& folder, const std::string& command) {
  const std::string script = (folder / "command.sh").string();
  std::ofstream(script) << "cd '" << folder.string() << "'\nexport DEEPTITAN_HISTORY= NO_COLOR=1\n" << command << "\n";
  FILE* shell = ::popen(("timeout 120 bash '" + script + "' 2>&1 </dev/null").c_str(), "r");
  ShellOutcome outcome;
  if (shell == nullptr) return outcome;
  std::array<char, 4096> block;
  while (const size_t bytes = std::fread(block.data(), 1, block.size(), shell))
    outcome.output.append(block.data(), bytes);
  const int status = ::pclose(shell);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

// A folder that looks as a reader's does behind `scripts/demo`, but with a text of some sentences and a model of few
// steps: what the pages' commands read.
class ReadersFolder {
 public:
  ReadersFolder() {
    const fs::path root = fs::path(DT_TEST_DATA_DIR).parent_path();
    fs::create_directories(path() / "build" / "release");
    fs::create_symlink(DT_PROGRAM, path() / "build" / "release" / "deeptitan");
    fs::copy(root / "configs", path() / "configs");
    fs::create_directories(path() / "runs" / "demo");
    write("runs/demo/bible.txt", testing::sample_text(3000));
    write("gen1.txt", testing::sample_text(30));
    write("more/one.txt", testing::sample_text(3));
    write("notes.jsonl", "{\"text\": \"a note\"}\n{\"text\": \"another note\"}\n");
    std::string chats;
    for (const char* who : {"the king", "a prophet", "a lion", "the woman"}) {
      for (const char* saw : {"the river", "a vineyard", "bread and water", "the mountain"}) {
        chats += std::string(R"({"messages": [{"role": "user", "content": "What did )") + who +
                 R"( see?"}, {"role": "assistant", "content": ")" + who + " saw " + saw + R"(."}]})" + "\n";
      }
    }
    write("chats.jsonl", chats);
    write("messages.json", R"([{"role": "user", "content": "Who went into the ark?"}])");
    write("prompts.jsonl", "{\"prompt\": \"And the king\", \"max_new_tokens\": 4}\n{\"prompt\": \"a lion\"}\n");
    write("pairs.jsonl", "{\"context\": \"And the king\", \"continuation\": \" saw\"}\n");
    write("requests.jsonl", "{\"info\": true}\n{\"context\": \"And the king\", \"continuation\": \" saw\"}\n");
    const ShellOutcome made = run_in_shell(path(),
                                           "set -e; gzip notes.jsonl\n"
                                           "build/release/deeptitan tokenizer train --text runs/demo/bible.txt "
                                           "--vocab-size 4096 --out runs/demo/tokenizer\n"
                                           "build/release/deeptitan train configs/tiny_v3.toml --training.steps 2\n"
                                           "cp -r runs/demo/model DeepSeek-V2-Lite-Chat\n"
                                           "cp configs/chat_template.jinja DeepSeek-V2-Lite-Chat/\n");
    EXPECT_EQ(made.exit_code, 0) << made.output;
  }
  const fs::path& path() const { return folder_.path(); }

 private:
  void write(const std::string& name, const std::string& text) { folder_.write(name, text); }
  TemporaryFolder folder_;
};

// The lines of a page that show a command: "    $ COMMAND".
std::vector<std::string> commands_of(const fs::path& page) {
  std::vector<std::string> commands;
  std::istringstream text(read_file(page));
  for (std::string line; std::getline(text, line);) {
    const size_t begin = line.find_first_not_of(' ');
    if (begin == std::string::npos || begin < 4) continue;
    EXPECT_FALSE(line.substr(begin).starts_with("build/release/") || line.substr(begin).starts_with("deeptitan "))
        << page.string() << ": a command begins with '$ ': " << line;
    if (line.compare(begin, 2, "$ ") != 0) continue;
    commands.push_back(line.substr(begin + 2));
  }
  return commands;
}

TEST(DocumentedCommands, RunAsTheyStand) {
  const ReadersFolder base;
  std::map<std::string, int> used;
  int64_t run = 0;
  for (const fs::path& page : pages()) {
    const std::vector<std::string> commands = commands_of(page);
    if (commands.empty()) continue;
    // Each page begins anew.
    const TemporaryFolder folder;
    fs::copy(base.path(), folder.path(), fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    for (const std::string& command : commands) {
      const auto left_out = std::find_if(kNotRun.begin(), kNotRun.end(),
                                         [&](const auto& entry) { return command.starts_with(entry.first); });
      if (left_out != kNotRun.end()) {
        ++used[left_out->first];
        continue;
      }
      const auto instead = kRunInstead.find(command);
      const auto code = kExitCodes.find(command);
      if (instead != kRunInstead.end()) ++used[command];
      if (code != kExitCodes.end()) ++used[command];
      const auto start = std::chrono::steady_clock::now();
      const ShellOutcome outcome =
          run_in_shell(folder.path(), instead == kRunInstead.end() ? command : instead->second);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (took.count() > 1) std::printf("%.1f s: %s\n", took.count(), command.c_str());
      EXPECT_EQ(outcome.exit_code, code == kExitCodes.end() ? 0 : code->second)
          << page.filename().string() << ": " << command << "\n"
          << outcome.output;
      ++run;
    }
  }
  EXPECT_GE(run, 25);
  // What the tables name stands on a page.
  for (const auto& [begin, why] : kNotRun) EXPECT_GT(used[begin], 0) << begin << ": " << why;
  for (const auto& [command, other] : kRunInstead) EXPECT_GT(used[command], 0) << command;
  for (const auto& [command, code] : kExitCodes) EXPECT_GT(used[command], 0) << command;
}

}  // namespace
}  // namespace deeptitan

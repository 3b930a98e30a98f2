// The command lines that README.md and docs/ show: their commands and options exist.

#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/program.h"
#include "core/file.h"

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

TEST(DocumentedCommands, ExistWithTheirOptions) {
  const fs::path root = fs::path(DT_TEST_DATA_DIR).parent_path();
  std::vector<fs::path> pages = {root / "README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  }
  int64_t commands = 0;
  for (const fs::path& page : pages) {
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

}  // namespace
}  // namespace deeptitan

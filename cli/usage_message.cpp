#include "usage_message.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "config/nearest_name.h"
#include "config/other_words.h"
#include "core/error.h"

namespace deeptitan {
namespace {

// The innermost command that was named on the command line.
const CLI::App& innermost(const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  return *command;
}

// "tokenizer train"; empty for the program itself.
std::string path_of(const CLI::App& command) {
  if (command.get_parent() == nullptr) return "";
  const std::string parent = path_of(*command.get_parent());
  return parent.empty() ? command.get_name() : parent + " " + command.get_name();
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  // A group's options are written as the command's own.
  for (const CLI::App* group : command.get_subcommands([](const CLI::App* sub) { return sub->get_name().empty(); })) {
    for (const std::string& name : option_names(*group)) names.push_back(name);
  }
  return names;
}

std::vector<std::string> command_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App* s) { return !s->get_name().empty(); })) {
    names.push_back(sub->get_name());
  }
  return names;
}

std::string suggestion(const CLI::App& command, std::string name) {
  // "--ctx_size" is "--ctx-size".
  const size_t word = std::min(name.find_first_not_of('-'), name.size());
  std::replace(name.begin() + static_cast<std::ptrdiff_t>(word), name.end(), '_', '-');
  const std::vector<std::string> options = option_names(command);
  const std::string usual(usual_option(name));
  const auto is_here = [&](const std::string& option) {
    return std::find(options.begin(), options.end(), option) != options.end();
  };
  for (const std::string& meant : {usual, name}) {
    if (is_here(meant)) return fmt::format("; did you mean '{}'?", meant);
  }
  return did_you_mean(name, options);
}

// An argument that nobody took.
std::string unknown_argument(const CLI::App& command, const std::string& argument) {
  if (argument.starts_with("-")) {
    const std::string name = argument.substr(0, argument.find('='));
    const std::string words = command.get_allow_extras() ? other_words_for(name) : "";
    return fmt::format("unknown option '{}'{}", name, words.empty() ? suggestion(command, name) : words);
  }
  const std::vector<std::string> commands = command_names(command);
  if (commands.empty()) return fmt::format("unexpected argument '{}'", argument);
  const std::string words = command.get_parent() == nullptr ? other_words_for_command(argument) : "";
  return fmt::format("unknown command '{}'{} (commands: {})", argument,
                     words.empty() ? did_you_mean(argument, commands) : words, fmt::join(commands, ", "));
}

std::string complaint(const CLI::App& command, const std::vector<std::string>& extras, const CLI::Error& error) {
  const std::vector<std::string> commands = command_names(command);
  const bool lacks_command = !commands.empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  const bool lacks = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  // Extras of a command that takes keys of the run file may be right.
  const bool unknown = (lacks && (lacks_command || !command.get_allow_extras())) ||
                       dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  if (unknown && !extras.empty()) {
    // A model without its option is what is missing.
    const std::string instead =
        lacks && !lacks_command && !extras.front().starts_with("-") ? fmt::format("; {}", error.what()) : std::string();
    return unknown_argument(command, extras.front()) + instead;
  }
  if (lacks_command) return fmt::format("expected a command: {}", fmt::join(commands, ", "));
  const std::string text = error.what();
  // "Could not convert: --quiet = perhaps": options have checks of their own, flags take nothing.
  constexpr std::string_view kFlag = "Could not convert: ";
  if (text.starts_with(kFlag)) {
    return fmt::format("{} stands alone; expected no value",
                       text.substr(kFlag.size(), text.find(" = ") - kFlag.size()));
  }
  // "Exactly 1 option from [--text,--pairs] is required", "... and 2 were given", "Requires at most 1 options be given
  // from [...]"
  if (const size_t begin = text.find("from ["), end = text.find(']'); begin < end && end != std::string::npos) {
    std::string names = text.substr(begin + 6, end - begin - 6);
    for (size_t comma = names.find(','); comma != std::string::npos; comma = names.find(',', comma + 2)) {
      names.insert(comma + 1, " ");
    }
    const bool none = text.ends_with("] is required");
    return none ? "expected one of " + names : "expected one of " + names + " alone";
  }
  // "--seed: At Most 1 required but received 2"
  constexpr std::string_view kTwice = ": At Most 1 required but received ";
  if (const size_t end = text.find(kTwice); end != std::string::npos) {
    return fmt::format("{} is given {} times; expected once", text.substr(0, end), text.substr(end + kTwice.size()));
  }
  // "--resume: 1 required VALUE missing"
  const size_t option_end = text.find(": 1 required ");
  return option_end == std::string::npos ? text : text.substr(0, option_end) + " needs a value";
}

}  // namespace

std::string usage_message(const CLI::App& root, const CLI::Error& error) {
  const CLI::App& command = innermost(root);
  const std::string path = path_of(command);
  return fmt::format("{}{} (see deeptitan {}--help)", path.empty() ? "" : path + ": ",
                     complaint(command, root.remaining(/*recurse=*/true), error), path.empty() ? "" : path + " ");
}

std::vector<std::string> run_file_overrides(const CLI::App& command) {
  std::vector<std::string> arguments = command.remaining();
  for (const std::string& argument : arguments) {
    const bool is_key = argument.substr(0, argument.find('=')).find('.') != std::string::npos;
    DT_CHECK_USAGE(!argument.starts_with("--") || is_key, "{}: {} (see deeptitan {} --help)", path_of(command),
                   unknown_argument(command, argument), path_of(command));
  }
  return arguments;
}

}  // namespace deeptitan

#include "chat_commands.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"

namespace deeptitan {
namespace {

struct Command {
  std::string_view name;
  std::string_view takes;
  std::string_view meaning;
};

constexpr std::array kCommands = {
    Command{"/help", "", "this list"},
    Command{"/reset", "", "start again; the system message stays"},
    Command{"/undo", "", "take the last question and its answer back"},
    Command{"/retry", "", "answer the last question again, with another seed"},
    Command{"/system", "TEXT", "set the system message; without a text there is none"},
    Command{"/set", "NAME VALUE",
            "change temperature, top-k, top-p, min-p, repetition-penalty, seed or max-new-tokens; "
            "without a name, show them"},
    Command{"/save", "FILE", "write the conversation as JSON"},
    Command{"/load", "FILE", "go on from a conversation that /save wrote"},
    Command{"/exit", "", "end; so do /quit, /bye and Ctrl-D"},
};

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  names.reserve(std::size(kCommands));
  for (const Command& command : kCommands) names.emplace_back(command.name);
  return names;
}

void show_help() {
  for (const Command& command : kCommands) {
    log_info(fmt::format("  {:<20} {}", fmt::format("{} {}", command.name, command.takes), command.meaning));
  }
  log_info("  \"\"\" begins a question of several lines, and ends it; a pasted text and Alt-Enter hold line feeds too");
}

void save(const ChatSession& session, const std::string& path) {
  DT_CHECK_USAGE(!path.empty(), "/save FILE: give the file to write the conversation to");
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ChatMessage& m : session.transcript()) json.push_back({{"role", m.role}, {"content", m.content}});
  write_file(path, json.dump(2) + "\n");
  log_info(fmt::format("{} messages written to {}", json.size(), path));
}

void load(ChatSession& session, const std::string& path) {
  DT_CHECK_USAGE(!path.empty(), "/load FILE: give the file to read the conversation from");
  const nlohmann::json json = read_json(read_file(path), {.where = path, .kind = ErrorKind::kUsage});
  const nlohmann::json& list = json.is_object() && json.contains("messages") ? json["messages"] : json;
  DT_CHECK_USAGE(list.is_array(), "{}: expected a list of messages, as /save writes it", path);
  std::vector<ChatMessage> messages;
  for (const auto& message : list) {
    const bool whole = message.is_object() && message.contains("role") && message["role"].is_string() &&
                       message.contains("content") && message["content"].is_string();
    DT_CHECK_USAGE(whole, "{}: message {} has no role and content that are texts", path, messages.size());
    messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  session.load(messages);
  log_info(fmt::format("{} messages read from {}", messages.size(), path));
}

template <typename Number>
void set_number(const std::string& name, const std::string& text, Number& value) {
  const char* end = text.data() + text.size();
  Number number = value;
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  DT_CHECK_USAGE(error == std::errc() && rest == end, "/set {}: expected a number, not '{}'", name, text);
  value = number;
}

std::string settings(const GenerationOptions& options) {
  const SamplingOptions& s = options.sampling;
  return fmt::format("temperature {}, top-k {}, top-p {}, min-p {}, repetition-penalty {}, seed {}, max-new-tokens {}",
                     s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.seed, options.max_new_tokens);
}

void set(GenerationOptions& options, const std::string& rest) {
  const size_t space = std::min(rest.find(' '), rest.size());
  std::string name = rest.substr(0, space);
  std::replace(name.begin(), name.end(), '_', '-');
  const std::string value = space < rest.size() ? rest.substr(space + 1) : "";
  if (!name.empty()) {
    GenerationOptions changed = options;
    SamplingOptions& s = changed.sampling;
    if (name == "temperature") {
      set_number(name, value, s.temperature);
    } else if (name == "top-k") {
      set_number(name, value, s.top_k);
    } else if (name == "top-p") {
      set_number(name, value, s.top_p);
    } else if (name == "min-p") {
      set_number(name, value, s.min_p);
    } else if (name == "repetition-penalty") {
      set_number(name, value, s.repetition_penalty);
    } else if (name == "seed") {
      set_number(name, value, s.seed);
    } else if (name == "max-new-tokens") {
      set_number(name, value, changed.max_new_tokens);
      DT_CHECK_USAGE(changed.max_new_tokens > 0, "/set max-new-tokens {}: expected at least 1", value);
    } else {
      const std::vector<std::string> names = {"temperature",        "top-k", "top-p",         "min-p",
                                              "repetition-penalty", "seed",  "max-new-tokens"};
      fail_usage("/set: there is no '{}'{} (there are {})", name, did_you_mean(name, names), fmt::join(names, ", "));
    }
    check_sampling_options(s);
    options = changed;
  }
  log_info(settings(options));
}

void retry(ChatState& state) {
  const std::vector<ChatMessage> before = state.session.transcript();
  const std::optional<std::string> question = state.session.undo();
  DT_CHECK_USAGE(question, "/retry: there is no question yet");
  if (state.options.sampling.temperature == 0) log_info("at temperature 0 the answer is the same again");
  ++state.options.sampling.seed;
  try {
    state.answer(*question);
  } catch (...) {
    state.session.load(before);
    throw;
  }
}

}  // namespace

std::string chat_command_names() {
  return fmt::format("{}", fmt::join(command_names(), ", "));
}

bool run_chat_command(ChatState& state, const std::string& line) {
  const size_t space = std::min(line.find(' '), line.size());
  const std::string command = line.substr(0, space);
  const std::string rest = space < line.size() ? line.substr(space + 1) : "";
  if (command == "/exit" || command == "/quit" || command == "/bye") return false;
  if (command == "/help" || command == "/?") {
    show_help();
  } else if (command == "/reset" || command == "/clear") {
    state.session.reset();
    log_info("the conversation starts again");
  } else if (command == "/undo") {
    const std::optional<std::string> question = state.session.undo();
    DT_CHECK_USAGE(question, "/undo: there is no question yet");
    log_info(fmt::format("taken back: {}", *question));
  } else if (command == "/retry") {
    retry(state);
  } else if (command == "/system") {
    state.session.set_system(rest);
    log_info(rest.empty() ? "no system message from now on" : "the system message counts from the next question on");
  } else if (command == "/set") {
    set(state.options, rest);
  } else if (command == "/save") {
    save(state.session, rest);
  } else if (command == "/load") {
    load(state.session, rest);
  } else {
    const std::vector<std::string> names = command_names();
    const std::string nearest = nearest_name(command, names);
    fail_usage("{}: unknown command{}; there are {}", command, nearest.empty() ? "" : ", did you mean " + nearest + "?",
               chat_command_names());
  }
  return true;
}

}  // namespace deeptitan

#include "chat_command.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "device_option.h"
#include "generate/chat_session.h"
#include "generate/model_files.h"
#include "option_checks.h"
#include "sampling_options.h"
#include "standard_output.h"
#include "terminal_line.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

constexpr int64_t kDefaultContext = 8192;

struct ChatArguments {
  std::string model;
  std::string chat_template;
  std::string system;
  std::string dtype = "auto";
  std::string device = "auto";
  int64_t context = 0;
  int64_t max_new_tokens = 2048;
  SamplingArguments sampling;
};

// How roles look: coloured on a terminal, plain words otherwise.
class Display {
 public:
  Display() : input_(::isatty(STDIN_FILENO) == 1), output_(::isatty(STDOUT_FILENO) == 1) {}

  bool interactive() const { return input_ && output_; }
  void ask() const { write(output_ ? "\033[1;32muser\033[0m: " : "user: "); }
  // A line that did not come from the keyboard is shown, so that the output reads as a conversation.
  void echo(const std::string& line) const {
    if (!input_) write(line + "\n");
  }
  void begin_answer() { part_ = Part::kNone; }
  void piece(std::string_view text, bool thinking) {
    const Part part = thinking ? Part::kThinking : Part::kAnswer;
    if (part != part_) {
      // Line feeds around the tags belong to the tags.
      text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
      if (text.empty()) return;
      if (part_ != Part::kNone) write(output_ ? "\033[0m\n" : "\n");
      if (thinking) {
        write(output_ ? "\033[1;36massistant\033[0m \033[2mthinks: " : "assistant thinks: ");
      } else {
        write(output_ ? "\033[1;36massistant\033[0m: " : "assistant: ");
      }
      part_ = part;
    }
    write(text);
  }
  void end_answer() const { write(output_ ? "\033[0m\n" : "\n"); }
  void write(std::string_view text) const {
    write_output(text);
    flush_output();
  }

 private:
  enum class Part { kNone, kThinking, kAnswer };
  bool input_;
  bool output_;
  Part part_ = Part::kNone;
};

void save_conversation(const ChatSession& session, const std::string& path) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ChatMessage& m : session.messages()) json.push_back({{"role", m.role}, {"content", m.content}});
  write_file(path, json.dump(2) + "\n");
  log_info(fmt::format("{} messages written to {}", json.size(), path));
}

// Returns false where the conversation is to end.
bool run_command(ChatSession& session, const std::string& line) {
  const size_t space = std::min(line.find(' '), line.size());
  const std::string command = line.substr(0, space);
  const std::string rest = space < line.size() ? line.substr(space + 1) : "";
  if (command == "/exit") return false;
  if (command == "/reset") {
    session.reset();
    log_info("the conversation starts again");
  } else if (command == "/system") {
    session.set_system(rest);
    log_info(rest.empty() ? "no system message from now on" : "the system message counts from the next question on");
  } else if (command == "/save") {
    if (rest.empty()) {
      log_warning("/save FILE: give the file to write the conversation to");
    } else {
      save_conversation(session, rest);
    }
  } else {
    const std::vector<std::string> known = {"/reset", "/system", "/save", "/exit"};
    const std::string nearest = nearest_name(command, known);
    log_warning(fmt::format("{}: unknown command{}; there are /reset, /system TEXT, /save FILE and /exit", command,
                            nearest.empty() ? "" : ", did you mean " + nearest + "?"));
  }
  return true;
}

void answer(ChatSession& session, const std::string& question, const GenerationOptions& options, int64_t context,
            Display& display) {
  InterruptNotes::clear();
  display.begin_answer();
  const ChatTurn turn =
      session.ask(question, options, [&](std::string_view piece, bool thinking) { display.piece(piece, thinking); });
  display.end_answer();
  InterruptNotes::clear();
  if (turn.forgotten_messages > 0) {
    log_warning(
        fmt::format("the oldest {} messages fell out of the context of {} tokens", turn.forgotten_messages, context));
  }
  switch (turn.generation.reason) {
    case StopReason::kContextFull:
      log_warning(fmt::format("the context of {} tokens is full: the answer ends here", context));
      break;
    case StopReason::kMaxNewTokens:
      log_warning(fmt::format("the answer was cut after --max-new-tokens {}", options.max_new_tokens));
      break;
    case StopReason::kInterrupted:
      log_info("stopped");
      break;
    case StopReason::kEndOfText:
    case StopReason::kStopString:
      break;
  }
  log_info(describe_speed(turn.generation));
}

void run_chat(const ChatArguments& arguments) {
  const ModelFiles files = open_model_files(arguments.model);
  ChatTemplate chat_template = ChatTemplate::load(arguments.model, arguments.chat_template);
  const int64_t longest = files.config.max_position_embeddings;
  const int64_t context = arguments.context > 0 ? arguments.context : std::min(longest, kDefaultContext);
  const DeviceChoice device = choose_device(arguments.device);
  const auto engine = load_engine(files, {.device = device.device,
                                          .compute = parse_compute_dtype(arguments.dtype, device.device),
                                          .context_length = context});
  say_device(device);
  ChatSession session(*engine, files.tokenizer, std::move(chat_template), files.generation.end_ids);
  session.set_system(arguments.system);
  GenerationOptions options{.max_new_tokens = arguments.max_new_tokens,
                            .sampling = arguments.sampling.over(files.generation.sampling)};
  options.interrupted = [] { return InterruptNotes::noted(); };

  const InterruptNotes notes;
  Display display;
  LineReader reader;
  if (display.interactive()) {
    log_info(fmt::format("a context of {} tokens; /reset, /system TEXT, /save FILE, /exit; Ctrl-C stops an answer",
                         context));
  }
  std::string line;
  while (true) {
    display.ask();
    const LineResult result = reader.read(line);
    if (result == LineResult::kEnd) {
      display.write("\n");
      return;
    }
    if (result == LineResult::kInterrupted) {
      InterruptNotes::clear();
      display.write("\n");
      continue;
    }
    line = valid_text(std::move(line), "the line");
    display.echo(line);
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    try {
      if (line.front() != '/') {
        answer(session, line, options, context, display);
      } else if (!run_command(session, line)) {
        return;
      }
    } catch (const Error& error) {
      // A question that does not fit, or a file that cannot be written, does not end the conversation.
      log_warning(error.what());
    }
  }
}

}  // namespace

void add_chat_command(CLI::App& app) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model: /reset, /system TEXT, /save FILE, /exit");
  command->add_option("--model", arguments->model, "Hugging Face model directory")->required()->type_name("DIR");
  command->add_option("--system", arguments->system, "The system message");
  command->add_option("--chat-template", arguments->chat_template, "Jinja file that replaces the model's own template");
  whole_number(
      command
          ->add_option("--context", arguments->context,
                       "Length of conversation kept; 0: 8192, or the model's max_position_embeddings if that is less")
          ->capture_default_str(),
      "TOKENS", 0);
  whole_number(command->add_option("--max-new-tokens", arguments->max_new_tokens, "Most tokens of one answer")
                   ->capture_default_str(),
               "TOKENS", 0);
  one_of(command->add_option("--dtype", arguments->dtype, "auto: bf16 where the chip multiplies it, else f32")
             ->capture_default_str(),
         {"auto", "bf16", "f32"});
  add_device_option(*command, arguments->device);
  add_sampling_options(*command, arguments->sampling);
  command->callback([arguments] { run_chat(*arguments); });
}

}  // namespace deeptitan

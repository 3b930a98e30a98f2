#include "chat_command.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "chat_commands.h"
#include "chat_display.h"
#include "core/error.h"
#include "core/log.h"
#include "device_option.h"
#include "generate/chat_session.h"
#include "generate/model_files.h"
#include "line_editor.h"
#include "model_ranks.h"
#include "option_checks.h"
#include "sampling_options.h"
#include "template_options.h"
#include "terminal_line.h"
#include "threads_option.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

constexpr int64_t kDefaultContext = 8192;
constexpr double kTalkTemperature = 0.7;

struct ChatArguments {
  std::string model;
  std::string chat_template;
  std::string system;
  std::string dtype = "auto";
  std::string experts = "auto";
  std::string device = "auto";
  int64_t context = 0;
  int64_t max_new_tokens = 2048;
  bool quiet = false;
  SamplingArguments sampling;
  TemplateArguments chat_variables;
  RankArguments ranks;
};

void answer(ChatSession& session, const std::string& question, const GenerationOptions& options, int64_t context,
            bool quiet, ChatDisplay& display) {
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
  if (!quiet) log_info(describe_speed(turn.generation));
}

// Lines from the keyboard, with an editor, or from a pipe.
class Questions {
 public:
  explicit Questions(const ChatDisplay& display) : display_(display) {
    if (display.interactive()) editor_.emplace(LineHistory(chat_history_file()));
  }

  // A question or a command, which may have several lines between two \"\"\".
  LineResult read(std::string& text) {
    const LineResult result = read_line({"user", display_.question_colour(), ": "}, text);
    if (result != LineResult::kLine || !text.starts_with(kQuotes)) return result;
    text.erase(0, kQuotes.size());
    std::string line;
    while (!text.ends_with(kQuotes)) {
      const LineResult next = read_line({.label = "...", .end = " "}, line);
      if (next == LineResult::kInterrupted) return next;
      if (next == LineResult::kEnd) return LineResult::kLine;
      text += "\n" + line;
    }
    text.resize(text.size() - kQuotes.size());
    return LineResult::kLine;
  }

 private:
  static constexpr std::string_view kQuotes = "\"\"\"";

  LineResult read_line(const LinePrompt& prompt, std::string& line) {
    if (editor_) return editor_->read(prompt, line);
    display_.write(prompt.label + prompt.end);
    const LineResult result = reader_.read(line);
    if (result != LineResult::kLine) return result;
    line = valid_text(std::move(line), "the line");
    display_.echo(line);
    return result;
  }

  const ChatDisplay& display_;
  std::optional<LineEditor> editor_;
  LineReader reader_;
};

// The command line, else generation_config.json; a temperature that neither names is one that suits talk.
SamplingOptions chat_sampling(const ChatArguments& arguments, const GenerationConfig& generation) {
  SamplingOptions recommended = generation.sampling;
  if (!generation.names_temperature) recommended.temperature = kTalkTemperature;
  return arguments.sampling.over(recommended);
}

void greet(const ChatArguments& arguments, const GenerationConfig& generation, double temperature, int64_t context) {
  const char* source = arguments.sampling.temperature ? "--temperature"
                       : generation.names_temperature ? "generation_config.json"
                                                      : "the model names none";
  log_info(fmt::format("a context of {} tokens, temperature {} ({}); {}; Ctrl-C stops an answer", context, temperature,
                       source, chat_command_names()));
}

void chat_on(RunnerRanks* ranks, const DeviceChoice& device, const ChatArguments& arguments) {
  const ModelFiles files = open_model_files(arguments.model);
  ChatTemplate chat_template = ChatTemplate::load(arguments.model, arguments.chat_template);
  const ChatRenderOptions chat_template_options = arguments.chat_variables.options();
  chat_template.check_options(chat_template_options);
  const int64_t longest = files.config.max_position_embeddings;
  const int64_t context = arguments.context > 0 ? arguments.context : std::min(longest, kDefaultContext);
  const auto engine = load_engine(files, {.device = device.device,
                                          .compute = parse_compute_dtype(arguments.dtype, device.device),
                                          .context_length = context,
                                          .experts = parse_expert_products(arguments.experts),
                                          .ranks = ranks});
  if (!arguments.quiet) say_device(device);
  ChatSession session(*engine, files.tokenizer, std::move(chat_template), files.generation.end_ids);
  session.set_system(arguments.system);
  session.set_template_options(chat_template_options);
  GenerationOptions options{.max_new_tokens = arguments.max_new_tokens,
                            .sampling = chat_sampling(arguments, files.generation)};
  options.interrupted = [] { return InterruptNotes::noted(); };

  const InterruptNotes notes;
  ChatDisplay display;
  Questions questions(display);
  if (!arguments.quiet) greet(arguments, files.generation, options.sampling.temperature, context);
  ChatState state{session, options, [&](const std::string& question) {
                    answer(session, question, options, context, arguments.quiet, display);
                  }};
  std::string text;
  while (true) {
    const LineResult result = questions.read(text);
    if (result == LineResult::kEnd) {
      display.write("\n");
      return;
    }
    if (result == LineResult::kInterrupted) {
      InterruptNotes::clear();
      display.write("\n");
      continue;
    }
    if (text.find_first_not_of(" \t\n") == std::string::npos) continue;
    try {
      if (text.front() != '/') {
        state.answer(text);
      } else if (!run_chat_command(state, text)) {
        return;
      }
    } catch (const Error& error) {
      // A question that does not fit, or a file that cannot be written, does not end the conversation.
      if (ranks != nullptr && ranks->lost()) throw;
      log_warning(error.what());
    }
  }
}

void run_chat(const ChatArguments& arguments) {
  ModelRanks ranks(arguments.ranks, arguments.model, arguments.device);
  if (ranks.follow()) return;
  chat_on(ranks.get(), ranks.device(), arguments);
  ranks.finish();
}

}  // namespace

void add_chat_command(CLI::App& app) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model; /help lists its commands");
  model_place(command->add_option("--model", arguments->model,
                                  "Hugging Face model directory, or the name of a downloaded model"))
      ->required();
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
               "TOKENS", 1);
  add_dtype_option(*command, arguments->dtype);
  add_experts_option(*command, arguments->experts);
  add_device_option(*command, arguments->device);
  add_template_options(*command, arguments->chat_variables);
  add_sampling_options(*command, arguments->sampling);
  add_threads_option(*command);
  add_rank_options(*command, arguments->ranks);
  command->get_option("--temperature")
      ->description("Divides the logits; 0: always the likeliest token (generation_config.json's, else 0.7)");
  command->add_flag("--quiet", arguments->quiet,
                    "No greeting, no word on the device, and no statistics behind an answer");
  command->callback([arguments] { run_chat(*arguments); });
}

}  // namespace deeptitan

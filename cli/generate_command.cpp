#include "generate_command.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "chat/chat_template.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "device_option.h"
#include "generate/model_files.h"
#include "generate/stop_strings.h"
#include "generate/text_generator.h"
#include "generate_request.h"
#include "message_list.h"
#include "option_checks.h"
#include "sampling_options.h"
#include "standard_input.h"
#include "standard_output.h"
#include "template_options.h"
#include "threads_option.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

struct GenerateArguments {
  std::string model;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> messages;
  std::optional<std::string> input;
  bool chat = false;
  std::string system;
  std::string chat_template;
  std::string dtype = "auto";
  std::string device = "auto";
  int64_t max_new_tokens = GenerationOptions().max_new_tokens;
  int64_t samples = 1;
  bool json = false;
  std::vector<std::string> stop;
  SamplingArguments sampling;
  TemplateArguments chat_variables;
};

void print_now(std::string_view text) {
  write_output(text);
  flush_output();
}

std::string read_text(const std::string& path) {
  return valid_text(read_file_or_input(path), path == "-" ? "standard input" : path);
}

// The prompt as it was given: by the command line, a file or a pipe, and by one of them alone.
std::string prompt_text(const GenerateArguments& arguments) {
  const bool piped = arguments.prompt == "-" || arguments.prompt_file == "-";
  if (!piped && arguments.prompt) return valid_text(*arguments.prompt, "the prompt");
  if (!piped && arguments.prompt_file) return read_text(*arguments.prompt_file);
  DT_CHECK_USAGE(piped || !standard_input_is_terminal(),
                 "there is no prompt; give one as --prompt TEXT, --prompt-file FILE or through a pipe");
  std::string text = read_text("-");
  if (text.empty()) log_info("the prompt is empty: the text begins from nothing");
  return text;
}

// Two prompts at once: one of them would be ignored.
void check_one_prompt(const GenerateArguments& arguments) {
  using Given = std::pair<const char*, const std::optional<std::string>*>;
  for (const auto& [option, value] : std::initializer_list<Given>{{"--input", &arguments.input},
                                                                  {"--messages", &arguments.messages},
                                                                  {"--prompt-file", &arguments.prompt_file},
                                                                  {"the command line", &arguments.prompt}}) {
    DT_CHECK_USAGE(!*value || **value == "-" || !standard_input_holds_text(),
                   "a prompt is given by {} and another comes through standard input; leave one out, or redirect "
                   "standard input with < /dev/null",
                   option);
  }
}

// Reads the chat template when it is first needed.
class Encoders {
 public:
  Encoders(const GenerateArguments& arguments, const Tokenizer& tokenizer)
      : arguments_(arguments), tokenizer_(tokenizer), template_options_(arguments.chat_variables.options()) {}

  // As it is, or as one question of a conversation.
  std::vector<int32_t> text(const std::string& prompt) {
    if (!arguments_.chat) return encode_prompt(tokenizer_, prompt);
    std::vector<ChatMessage> messages;
    if (!arguments_.system.empty()) messages.push_back({"system", arguments_.system});
    messages.push_back({"user", prompt});
    return encode_rendered(tokenizer_, chat_template().render(messages, template_options_));
  }
  std::vector<int32_t> messages(const jinja::Value& list) {
    return encode_rendered(tokenizer_, chat_template().render_messages(list, template_options_));
  }

 private:
  const ChatTemplate& chat_template() {
    if (!template_) template_ = ChatTemplate::load(arguments_.model, arguments_.chat_template);
    return *template_;
  }

  const GenerateArguments& arguments_;
  const Tokenizer& tokenizer_;
  ChatRenderOptions template_options_;
  std::optional<ChatTemplate> template_;
};

// What the command line asks for, in its order: every prompt with each of its samples.
std::vector<GenerateRequest> requested(const GenerateArguments& arguments, const ModelFiles& files,
                                       const GenerationOptions& options) {
  Encoders encoders(arguments, files.tokenizer);
  std::vector<GenerateRequest> prompts;
  if (arguments.input) {
    prompts = parse_requests(read_text(*arguments.input), *arguments.input == "-" ? "standard input" : *arguments.input,
                             options,
                             {.text = [&](const std::string& prompt) { return encoders.text(prompt); },
                              .messages = [&](const jinja::Value& messages) { return encoders.messages(messages); }});
  } else if (arguments.messages) {
    const jinja::Value messages = parse_message_list(read_text(*arguments.messages), *arguments.messages);
    prompts.push_back({.id = {}, .prompt = encoders.messages(messages), .options = options});
  } else {
    prompts.push_back({.id = {}, .prompt = encoders.text(prompt_text(arguments)), .options = options});
  }
  const int64_t longest = files.config.max_position_embeddings;
  std::vector<GenerateRequest> requests;
  for (const GenerateRequest& prompt : prompts) {
    const auto length = static_cast<int64_t>(prompt.prompt.size());
    DT_CHECK_USAGE(length < longest,
                   "the prompt {}has {} tokens and the model's context {}; shorten it to leave room for an answer",
                   prompt.id.is_null() ? "" : prompt.id.dump() + " ", length, longest);
    for (int64_t sample = 0; sample < arguments.samples; ++sample) {
      GenerateRequest& request = requests.emplace_back(prompt);
      request.sample = sample;
      request.options.sampling.seed += static_cast<uint64_t>(sample);
    }
  }
  return requests;
}

// No more cache than this run can fill.
int64_t needed_context(const std::vector<GenerateRequest>& requests, int64_t longest) {
  int64_t context = 1;
  for (const GenerateRequest& request : requests) {
    const auto length = static_cast<int64_t>(request.prompt.size());
    const int64_t room = std::clamp<int64_t>(request.options.max_new_tokens, 1, longest - length);
    context = std::max(context, length + room);
  }
  return context;
}

void print_text(const GenerateRequest& request, const GenerateArguments& arguments, TextGenerator& generator,
                int64_t context) {
  if (arguments.samples > 1) print_now(fmt::format("--- {} of {} ---\n", request.sample + 1, arguments.samples));
  const Generation generation = generator.generate(request.prompt, request.options, print_now);
  print_now("\n");
  if (generation.reason == StopReason::kContextFull) {
    log_warning(fmt::format("the context of {} tokens is full", context));
  }
  log_info(describe_speed(generation));
}

void print_json_lines(std::vector<GenerateRequest>& requests, TextGenerator& generator) {
  int64_t tokens = 0;
  const double start = monotonic_seconds();
  for (GenerateRequest& request : requests) {
    request.options.logprobs = true;
    const Generation generation = generator.generate(request.prompt, request.options, [](std::string_view) {});
    tokens += static_cast<int64_t>(generation.tokens.size());
    print_now(generation_as_json(request, generation) + "\n");
  }
  const double seconds = monotonic_seconds() - start;
  log_info(fmt::format("{} answers, {} tokens in {:.3f} s, {:.1f} tokens/s", requests.size(), tokens, seconds,
                       seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0));
}

void run_generate(const GenerateArguments& arguments) {
  check_one_prompt(arguments);
  DT_CHECK_USAGE(arguments.chat_template.empty() || arguments.chat || arguments.messages || arguments.input,
                 "--chat-template counts with --chat, --messages or --input; give one of them, or leave it out");
  DT_CHECK_USAGE(!arguments.chat_variables.given() || arguments.chat || arguments.messages || arguments.input,
                 "--template-var and --tools count with --chat, --messages or --input; give one of them, or leave them "
                 "out");
  std::vector<std::string> stop;
  for (const std::string& text : arguments.stop) stop.push_back(read_escapes(text, "--stop"));
  const ModelFiles files = open_model_files(arguments.model);
  const GenerationOptions options{.max_new_tokens = arguments.max_new_tokens,
                                  .sampling = arguments.sampling.over(files.generation.sampling),
                                  .stop = std::move(stop)};
  std::vector<GenerateRequest> requests = requested(arguments, files, options);
  const int64_t context = needed_context(requests, files.config.max_position_embeddings);
  const DeviceChoice device = choose_device(arguments.device);
  const auto engine = load_engine(files, {.device = device.device,
                                          .compute = parse_compute_dtype(arguments.dtype, device.device),
                                          .context_length = context});
  say_device(device);
  TextGenerator generator(*engine, files.tokenizer, files.generation.end_ids);
  if (arguments.json || arguments.input) {
    print_json_lines(requests, generator);
    return;
  }
  for (const GenerateRequest& request : requests) print_text(request, arguments, generator, context);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a model");
  model_place(command->add_option("--model", arguments->model,
                                  "Hugging Face model directory, or the name of a downloaded model"))
      ->required();
  CLI::Option_group* what = command->add_option_group("what");
  what->add_option("--prompt,PROMPT", arguments->prompt,
                   "The text to continue; -, or none of these: standard input, all of it");
  what->add_option("--prompt-file,--file", arguments->prompt_file,
                   "File with the text to continue, UTF-8; -: standard input")
      ->type_name("FILE");
  what->add_option("--messages", arguments->messages,
                   "JSON list of messages (role, content and what the chat template knows besides), which the model "
                   "answers; -: standard input")
      ->type_name("FILE");
  what->add_option(
          "--input", arguments->input,
          "JSON lines, each with prompt or messages, and maybe id, max_new_tokens, temperature, top_k, top_p, "
          "min_p, repetition_penalty, seed and stop of its own; prints for each, in order, what --json prints, "
          "with id and sample; -: standard input")
      ->type_name("FILE");
  what->require_option(0, 1);
  command->add_flag(
      "--json", arguments->json,
      "Print one JSON object: text, tokens, logprobs (natural logarithm, before temperature and filters), "
      "stop_reason (end_of_text, stop_string, max_new_tokens, context_full), prompt_tokens, cached_tokens, "
      "prefill_seconds, decode_seconds");
  whole_number(
      command->add_option("--samples", arguments->samples, "Answers to each prompt, of seed, seed + 1 and so on")
          ->capture_default_str(),
      "ANSWERS", 1);
  CLI::Option* chat =
      command->add_flag("--chat", arguments->chat, "The prompt is a question: put it into the model's chat template");
  command->add_option("--system", arguments->system, "With --chat: the system message")->needs(chat);
  command->add_option("--chat-template", arguments->chat_template, "Jinja file that replaces the model's own template");
  add_template_options(*command, arguments->chat_variables, "Of a conversation: ");
  whole_number(command->add_option("--max-new-tokens", arguments->max_new_tokens, "Most tokens to generate")
                   ->capture_default_str(),
               "TOKENS", 0);
  command
      ->add_option("--stop", arguments->stop,
                   "Text that ends the answer, and is not printed; may hold \\n, \\t, \\\\, \\xHH, \\uHHHH and the "
                   "text of special tokens; may be repeated")
      ->allow_extra_args(false);
  one_of(command->add_option("--dtype", arguments->dtype, "auto: bf16 where the chip multiplies it, else fp32")
             ->capture_default_str(),
         {"auto", "bf16", "fp32"});
  add_device_option(*command, arguments->device);
  add_sampling_options(*command, arguments->sampling);
  add_threads_option(*command);
  command->callback([arguments] { run_generate(*arguments); });
}

}  // namespace deeptitan

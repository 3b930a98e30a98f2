#include "generate_command.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "chat/chat_template.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "device_option.h"
#include "generate/model_files.h"
#include "generate/stop_strings.h"
#include "generate/text_generator.h"
#include "option_checks.h"
#include "sampling_options.h"
#include "standard_input.h"
#include "standard_output.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

struct GenerateArguments {
  std::string model;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  bool chat = false;
  std::string system;
  std::string chat_template;
  std::string dtype = "auto";
  std::string device = "auto";
  int64_t max_new_tokens = GenerationOptions().max_new_tokens;
  std::vector<std::string> stop;
  SamplingArguments sampling;
};

void print_now(std::string_view text) {
  write_output(text);
  flush_output();
}

// The prompt as it was given: by the command line, a file or a pipe, and by one of them alone.
std::string prompt_text(const GenerateArguments& arguments) {
  const bool piped = arguments.prompt == "-" || arguments.prompt_file == "-";
  if (!piped && (arguments.prompt || arguments.prompt_file)) {
    DT_CHECK_USAGE(!standard_input_holds_text(),
                   "a prompt is given by {} and another comes through standard input; leave one out, or redirect "
                   "standard input with < /dev/null",
                   arguments.prompt ? "the command line" : "--prompt-file");
    if (arguments.prompt) return valid_text(*arguments.prompt, "the prompt");
    return valid_text(read_file(*arguments.prompt_file), *arguments.prompt_file);
  }
  DT_CHECK_USAGE(piped || !standard_input_is_terminal(),
                 "there is no prompt; give one as --prompt TEXT, --prompt-file FILE or through a pipe");
  std::string text = valid_text(read_standard_input(), "standard input");
  if (text.empty()) log_info("the prompt is empty: the text begins from nothing");
  return text;
}

// The prompt's tokens: as it is, or as one question of a conversation.
std::vector<int32_t> prompt_tokens(const GenerateArguments& arguments, const Tokenizer& tokenizer) {
  const std::string text = prompt_text(arguments);
  if (!arguments.chat) return encode_prompt(tokenizer, text);
  std::vector<ChatMessage> messages;
  if (!arguments.system.empty()) messages.push_back({"system", arguments.system});
  messages.push_back({"user", text});
  return encode_rendered(tokenizer, ChatTemplate::load(arguments.model, arguments.chat_template).render(messages));
}

void run_generate(const GenerateArguments& arguments) {
  std::vector<std::string> stop;
  for (const std::string& text : arguments.stop) stop.push_back(read_escapes(text, "--stop"));
  const ModelFiles files = open_model_files(arguments.model);
  const std::vector<int32_t> prompt = prompt_tokens(arguments, files.tokenizer);
  GenerationOptions options{.max_new_tokens = arguments.max_new_tokens,
                            .sampling = arguments.sampling.over(files.generation.sampling),
                            .stop = std::move(stop)};
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  const int64_t longest = files.config.max_position_embeddings;
  DT_CHECK_USAGE(prompt_length < longest,
                 "the prompt has {} tokens and the model's context {}; shorten it to leave room for an answer",
                 prompt_length, longest);
  // No more cache than this run can fill.
  const int64_t room = longest - prompt_length;
  const int64_t context = prompt_length + std::min(std::max<int64_t>(1, options.max_new_tokens), room);
  const DeviceChoice device = choose_device(arguments.device);
  const auto engine = load_engine(files, {.device = device.device,
                                          .compute = parse_compute_dtype(arguments.dtype, device.device),
                                          .context_length = context});
  say_device(device);
  TextGenerator generator(*engine, files.tokenizer, files.generation.end_ids);
  const Generation generation = generator.generate(prompt, options, print_now);
  print_now("\n");
  if (generation.reason == StopReason::kContextFull) {
    log_warning(fmt::format("the context of {} tokens is full", context));
  }
  log_info(describe_speed(generation));
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a model");
  command->add_option("--model", arguments->model, "Hugging Face model directory")->required()->type_name("DIR");
  CLI::Option* prompt = command->add_option("--prompt,PROMPT", arguments->prompt,
                                            "The text to continue; -, or none of these: standard input, all of it");
  command
      ->add_option("--prompt-file", arguments->prompt_file, "File with the text to continue, UTF-8; -: standard input")
      ->excludes(prompt);
  CLI::Option* chat =
      command->add_flag("--chat", arguments->chat, "The prompt is a question: put it into the model's chat template");
  command->add_option("--system", arguments->system, "With --chat: the system message")->needs(chat);
  command
      ->add_option("--chat-template", arguments->chat_template,
                   "With --chat: Jinja file that replaces the model's own template")
      ->needs(chat);
  whole_number(command->add_option("--max-new-tokens", arguments->max_new_tokens, "Most tokens to generate")
                   ->capture_default_str(),
               "TOKENS", 0);
  command
      ->add_option("--stop", arguments->stop,
                   "Text that ends the answer, and is not printed; may hold \\n, \\t, \\\\, \\xHH, \\uHHHH and the "
                   "text of special tokens; may be repeated")
      ->allow_extra_args(false);
  one_of(command->add_option("--dtype", arguments->dtype, "auto: bf16 where the chip multiplies it, else f32")
             ->capture_default_str(),
         {"auto", "bf16", "f32"});
  add_device_option(*command, arguments->device);
  add_sampling_options(*command, arguments->sampling);
  command->callback([arguments] { run_generate(*arguments); });
}

}  // namespace deeptitan

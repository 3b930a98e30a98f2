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

#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "device_option.h"
#include "generate/batch_generator.h"
#include "generate/model_files.h"
#include "generate/stop_strings.h"
#include "generate/text_generator.h"
#include "generate_many.h"
#include "generate_request.h"
#include "message_list.h"
#include "model_ranks.h"
#include "option_checks.h"
#include "prompt_encoder.h"
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
  std::string experts = "auto";
  std::string device = "auto";
  int64_t max_new_tokens = GenerationOptions().max_new_tokens;
  int64_t samples = 1;
  int64_t sequences = 0;
  bool json = false;
  std::vector<std::string> stop;
  SamplingArguments sampling;
  TemplateArguments chat_variables;
  RankArguments ranks;
};

// Every answer is planned before the first is made.
constexpr int64_t kMostSamples = 100'000;

void print_now(std::string_view text) {
  write_output(text);
  flush_output();
}

std::string read_text(const std::string& path) {
  return valid_file_text(read_file_or_input(path), path == "-" ? "standard input" : path);
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

// What keeps the model from answering a prompt; empty: nothing.
std::string why_not(const GenerateRequest& request, const ModelConfig& config) {
  const std::string where = request.where.empty() ? "" : request.where + ": ";
  const int64_t longest = config.max_position_embeddings;
  if (std::ssize(request.prompt) >= longest) {
    return fmt::format("{}the prompt has {} tokens and the model's context {}; shorten it to leave room for an answer",
                       where, request.prompt.size(), longest);
  }
  for (const int32_t id : request.prompt) {
    if (id >= 0 && id < config.vocab_size) continue;
    return fmt::format("{}token id {} is outside the model's vocabulary of {}", where, id, config.vocab_size);
  }
  return "";
}

// What the command line asks for, in its order: every prompt with each of its samples.
std::vector<GenerateRequest> requested(const GenerateArguments& arguments, const ModelFiles& files,
                                       const GenerationOptions& options) {
  PromptEncoder encoder({.model = arguments.model,
                         .chat_template = arguments.chat_template,
                         .variables = arguments.chat_variables,
                         .as_question = arguments.chat,
                         .system = arguments.system},
                        files.tokenizer);
  std::vector<GenerateRequest> prompts;
  if (arguments.input) {
    prompts = parse_requests(read_text(*arguments.input), *arguments.input == "-" ? "standard input" : *arguments.input,
                             options, encoder.encoders());
  } else if (arguments.messages) {
    const jinja::Value messages = parse_message_list(read_text(*arguments.messages), *arguments.messages);
    prompts.push_back({.id = {}, .prompt = encoder.messages(messages), .options = options});
  } else {
    prompts.push_back({.id = {}, .prompt = encoder.text(prompt_text(arguments)), .options = options});
  }
  std::vector<GenerateRequest> requests;
  for (GenerateRequest& prompt : prompts) {
    if (prompt.error.empty()) prompt.error = why_not(prompt, files.config);
    const int64_t samples = prompt.error.empty() ? arguments.samples : 1;
    for (int64_t sample = 0; sample < samples; ++sample) {
      GenerateRequest& request = requests.emplace_back(prompt);
      request.sample = sample;
      request.options.sampling.seed += static_cast<uint64_t>(sample);
    }
  }
  return requests;
}

// What is run: the requests without an error.
std::vector<GenerationRequest> answerable(const std::vector<GenerateRequest>& requests, bool logprobs) {
  std::vector<GenerationRequest> found;
  for (const GenerateRequest& request : requests) {
    if (!request.error.empty()) continue;
    found.push_back({request.prompt, request.options});
    found.back().options.logprobs = logprobs;
  }
  return found;
}

int64_t warn_of_errors(const std::vector<GenerateRequest>& requests) {
  constexpr int64_t kSaid = 5;
  int64_t count = 0;
  for (const GenerateRequest& request : requests) {
    if (!request.error.empty() && ++count <= kSaid) log_warning(request.error);
  }
  return count;
}

void say_speed(size_t answers, int64_t tokens, double seconds) {
  log_info(fmt::format("{} answers, {} tokens in {:.3f} s, {:.1f} tokens/s", answers, tokens, seconds,
                       seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0));
}

void print_text(const GenerationRequest& request, BatchGenerator& generator, int64_t context) {
  const Generation made =
      generator.generate({&request, 1}, {}, [](size_t /*request*/, std::string_view text) { print_now(text); })[0];
  print_now("\n");
  if (made.reason == StopReason::kContextFull) log_warning(fmt::format("the context of {} tokens is full", context));
  log_info(describe_speed(made));
}

void print_many(const GenerateArguments& arguments, const std::vector<GenerateRequest>& requests,
                const std::vector<GenerationRequest>& run, BatchGenerator& generator) {
  int64_t tokens = 0;
  const bool json = arguments.json || arguments.input;
  AnswersInOrder in_order(requests, [&](size_t place, const Generation* made) {
    if (made != nullptr) tokens += std::ssize(made->tokens);
    if (json) {
      print_now(generation_as_json(requests[place], made != nullptr ? *made : Generation()) + "\n");
    } else {
      print_now(fmt::format("--- {} of {} ---\n{}\n", place + 1, requests.size(), made->text));
    }
  });
  const double start = monotonic_seconds();
  in_order.begin();
  generator.generate(run, [&](size_t i, const Generation& made) { in_order.done(i, made); });
  say_speed(run.size(), tokens, monotonic_seconds() - start);
}

void generate_on(RunnerRanks* ranks, const DeviceChoice& device, const GenerateArguments& arguments) {
  check_one_prompt(arguments);
  DT_CHECK_USAGE(arguments.chat_template.empty() || arguments.chat || arguments.messages || arguments.input,
                 "--chat-template counts with --chat, --messages or --input; give one of them, or leave it out");
  DT_CHECK_USAGE(!arguments.chat || !arguments.messages,
                 "--chat makes a question of a prompt, and --messages has a conversation; leave --chat out, and give a "
                 "system message as the first of --messages");
  DT_CHECK_USAGE(!arguments.chat_variables.given() || arguments.chat || arguments.messages || arguments.input,
                 "--template-var and --tools count with --chat, --messages or --input; give one of them, or leave them "
                 "out");
  std::vector<std::string> stop;
  for (const std::string& text : arguments.stop) stop.push_back(read_escapes(text, "--stop"));
  const ModelFiles files = open_model_files(arguments.model);
  const GenerationOptions options{.max_new_tokens = arguments.max_new_tokens,
                                  .sampling = arguments.sampling.over(files.generation.sampling),
                                  .stop = std::move(stop)};
  const std::vector<GenerateRequest> requests = requested(arguments, files, options);
  const bool json = arguments.json || arguments.input;
  const std::vector<GenerationRequest> run = answerable(requests, json);
  // What has but one prompt, or none that can be answered, is wrong as a whole.
  if (run.empty()) fail_usage("{}", requests.front().error);
  const int64_t without = warn_of_errors(requests);
  const RunnerOptions runner_options{.device = device.device,
                                     .compute = parse_compute_dtype(arguments.dtype, device.device),
                                     .experts = parse_expert_products(arguments.experts),
                                     .ranks = ranks};
  const auto runner = runner_for(files, runner_options, run, arguments.samples, arguments.sequences);
  say_device(device);
  BatchGenerator generator(*runner, files.tokenizer, files.generation.end_ids);
  if (!json && run.size() == 1) {
    print_text(run.front(), generator, runner->options().context_length);
    return;
  }
  print_many(arguments, requests, run, generator);
  DT_CHECK(without == 0, "{} of {} lines of {} have no answer; the field error of each says why", without,
           without + std::ssize(run) / arguments.samples, *arguments.input);
}

void run_generate(const GenerateArguments& arguments) {
  ModelRanks ranks(arguments.ranks, arguments.model, arguments.device);
  if (ranks.follow()) return;
  generate_on(ranks.get(), ranks.device(), arguments);
  ranks.finish();
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
          "with id and sample, or id and error for a line that is wrong (exit code 1 then); -: standard input")
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
      "ANSWERS", 1, kMostSamples);
  whole_number(
      command
          ->add_option("--sequences", arguments->sequences,
                       fmt::format("Texts that are generated at once, of --input and --samples; 0: up to {}, fewer "
                                   "where memory is short. The texts are the same with any number",
                                   kUsualSequences))
          ->capture_default_str(),
      "TEXTS", 0);
  CLI::Option* chat =
      command->add_flag("--chat", arguments->chat, "The prompt is a question: put it into the model's chat template");
  command->add_option("--system", arguments->system, "With --chat: the system message")->needs(chat);
  command->add_option("--chat-template", arguments->chat_template, "Jinja file that replaces the model's own template");
  add_template_options(*command, arguments->chat_variables, "Of a conversation: ");
  whole_number(command->add_option("--max-new-tokens", arguments->max_new_tokens, "Most tokens to generate")
                   ->capture_default_str(),
               "TOKENS", 1);
  command
      ->add_option("--stop", arguments->stop,
                   "Text that ends the answer, and is not printed; may hold \\n, \\t, \\\\, \\xHH, \\uHHHH and the "
                   "text of special tokens; may be repeated")
      ->allow_extra_args(false);
  add_dtype_option(*command, arguments->dtype);
  add_experts_option(*command, arguments->experts);
  add_device_option(*command, arguments->device);
  add_sampling_options(*command, arguments->sampling);
  add_threads_option(*command);
  add_rank_options(*command, arguments->ranks);
  command->callback([arguments] { run_generate(*arguments); });
}

}  // namespace deeptitan

#include "tokenizer_command.h"

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "chat/chat_template.h"
#include "core/byte_order_mark.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "data/text_documents.h"
#include "option_checks.h"
#include "standard_output.h"
#include "template_options.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/tokenizer.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

constexpr size_t kLinesAtOnce = 1 << 14;  // encoded together on all cores, then printed
constexpr const char* kStandardInput = "-";

struct TokenizerTrainArguments {
  std::vector<std::string> texts;
  std::string output;
  std::string pre_tokenizer = "deepseek-v3";
  BpeTrainOptions options;
};

struct EncodeArguments {
  std::string model;
  std::string file;
  bool bos = false;
  bool eos = false;
  bool plain = false;
};

struct DecodeArguments {
  std::string model;
  std::string file;
  std::vector<int32_t> ids;
  bool skip_special = false;
};

struct RenderArguments {
  std::string model;
  std::string messages;
  std::string chat_template;
  bool no_generation_prompt = false;
  TemplateArguments chat_variables;
};

std::string read_input(const std::string& path) {
  if (path != kStandardInput) return read_file_or_pipe(path);
  std::string text;
  char block[1 << 16];
  while (const size_t bytes = std::fread(block, 1, sizeof block, stdin)) text.append(block, bytes);
  DT_CHECK(std::ferror(stdin) == 0, "standard input could not be read to its end");
  return text;
}

// The lines of `text` without their line feeds; what follows the last line feed is a line unless it is empty.
std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

void append_json_array(std::span<const int32_t> ids, std::string& output) {
  output += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) output += ',';
    const fmt::format_int number(ids[i]);
    output.append(number.data(), number.size());
  }
  output += ']';
}

// A line such as "[1, 2, 3]".
std::vector<int32_t> parse_json_array(std::string_view line, const std::string& path, size_t line_number) {
  const auto skip_spaces = [&] {
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t' || line.front() == '\r'))
      line.remove_prefix(1);
  };
  const auto take = [&](char c) {
    skip_spaces();
    if (line.empty() || line.front() != c) return false;
    line.remove_prefix(1);
    return true;
  };
  std::vector<int32_t> ids;
  bool well_formed = take('[');
  if (well_formed && !take(']')) {
    do {
      skip_spaces();
      int32_t id = 0;
      const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), id);
      well_formed = error == std::errc();
      line.remove_prefix(static_cast<size_t>(stop - line.data()));
      ids.push_back(id);
    } while (well_formed && take(','));
    well_formed = well_formed && take(']');
  }
  skip_spaces();
  DT_CHECK(well_formed && line.empty(), "{}:{}: expected a JSON array of token ids, such as [1, 2, 3]", path,
           line_number);
  return ids;
}

// The documents of a file or directory, as training reads them: no braces of JSON are learnt.
std::vector<std::string> read_texts(const std::string& path) {
  if (path == kStandardInput) return {valid_file_text(read_input(path), path)};
  std::vector<std::string> texts;
  const TextStatistics statistics = for_each_document(
      {}, path, [&](std::string_view document, const std::string& /*where*/) { texts.emplace_back(document); });
  warn_of_replaced(path, statistics.replaced_characters);
  return texts;
}

void run_train(const TokenizerTrainArguments& arguments) {
  const std::filesystem::path output = arguments.output;
  DT_CHECK_USAGE(!std::filesystem::exists(output / "tokenizer.json"),
                 "{} already holds a tokenizer.json; name another directory with --out, or remove it",
                 arguments.output);
  static const std::map<std::string, PreTokenization> kKinds = {{"deepseek-v3", PreTokenization::kDeepseekV3},
                                                                {"gpt2", PreTokenization::kGpt2}};
  BpeTrainOptions options = arguments.options;
  options.pre_tokenization = kKinds.at(arguments.pre_tokenizer);
  std::vector<std::string> texts;
  uint64_t bytes = 0;
  for (const std::string& path : arguments.texts) {
    for (std::string& text : read_texts(path)) {
      bytes += text.size();
      texts.push_back(std::move(text));
    }
  }
  DT_CHECK_USAGE(bytes > 0, "{} {} no text to learn from; expected UTF-8 text, or JSON with a field text",
                 fmt::join(arguments.texts, ", "), arguments.texts.size() == 1 ? "holds" : "hold");
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const Tokenizer tokenizer = train_bpe(views, options);
  std::filesystem::create_directories(output);
  tokenizer.save(output);
  log_info(fmt::format("{}: a vocabulary of {} tokens from {} of text", arguments.output, tokenizer.vocab_size(),
                       format_bytes(bytes)));
  if (tokenizer.vocab_size() < options.vocab_size) {
    log_warning(fmt::format("the text has no more pairs to merge: {} tokens came out, {} were asked for",
                            tokenizer.vocab_size(), options.vocab_size));
  }
}

void run_encode(const EncodeArguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::load(arguments.model);
  const std::optional<int32_t> bos = tokenizer.bos_token_id(), eos = tokenizer.eos_token_id();
  DT_CHECK_USAGE(!arguments.bos || bos, "--bos: the tokenizer in {} names no bos_token; leave the flag out",
                 arguments.model);
  DT_CHECK_USAGE(!arguments.eos || eos, "--eos: the tokenizer in {} names no eos_token; leave the flag out",
                 arguments.model);
  const std::string text = valid_file_text(read_input(arguments.file), arguments.file);
  const std::vector<std::string_view> lines = split_lines(text);
  const EncodeOptions options = {.add_special_tokens = false, .parse_special_tokens = !arguments.plain};
  std::string output;
  for (size_t first = 0; first < lines.size(); first += kLinesAtOnce) {
    const auto block = std::span(lines).subspan(first, std::min(kLinesAtOnce, lines.size() - first));
    output.clear();
    for (std::vector<int32_t>& ids : tokenizer.encode_batch(block, options)) {
      if (arguments.bos) ids.insert(ids.begin(), *bos);
      if (arguments.eos) ids.push_back(*eos);
      append_json_array(ids, output);
      output += '\n';
    }
    write_output(output);
  }
  flush_output();
}

void run_decode(const DecodeArguments& arguments) {
  DT_CHECK_USAGE(arguments.file.empty() != arguments.ids.empty(),
                 "tokenizer decode takes either --file FILE or token ids; give one of the two");
  const Tokenizer tokenizer = Tokenizer::load(arguments.model);
  if (!arguments.ids.empty()) {
    write_output(tokenizer.decode(arguments.ids, arguments.skip_special) + "\n");
  } else {
    const std::string text = read_input(arguments.file);
    const std::vector<std::string_view> lines = split_lines(without_byte_order_mark(text));
    for (size_t i = 0; i < lines.size(); ++i) {
      write_output(tokenizer.decode(parse_json_array(lines[i], arguments.file, i + 1), arguments.skip_special) + "\n");
    }
  }
  flush_output();
}

// The messages of a JSON file; whatever they hold besides role and content goes to the template as it is.
std::vector<ChatMessage> read_messages(const std::string& path) {
  return messages_from_value(jinja::value_from_json(read_input(path), path), path);
}

// Prints the text as it is, without a line feed of its own: the template's last one counts.
void run_render(const RenderArguments& arguments) {
  const ChatTemplate chat_template = ChatTemplate::load(arguments.model, arguments.chat_template);
  ChatRenderOptions options = arguments.chat_variables.options();
  options.add_generation_prompt = !arguments.no_generation_prompt;
  write_output(chat_template.render(read_messages(arguments.messages), options));
  flush_output();
}

void add_train(CLI::App& tokenizer) {
  auto arguments = std::make_shared<TokenizerTrainArguments>();
  CLI::App* command = tokenizer.add_subcommand("train", "Learn a byte-level BPE from texts");
  command
      ->add_option("--text", arguments->texts,
                   "Texts, read as a source of training is (UTF-8, JSON with a field text, compressed, directories); "
                   "- is standard input")
      ->required()
      ->type_name("FILE");
  whole_number(
      command
          ->add_option("--vocab-size", arguments->options.vocab_size, "Entries: special tokens, 256 bytes and merges")
          ->capture_default_str(),
      "TOKENS", 1);
  command->add_option("--out", arguments->output, "Directory to write tokenizer.json and tokenizer_config.json into")
      ->required()
      ->type_name("DIR");
  one_of(command->add_option("--pre-tokenizer", arguments->pre_tokenizer, "How text is cut before pairs are counted")
             ->capture_default_str(),
         {"deepseek-v3", "gpt2"});
  whole_number(
      command->add_option("--min-frequency", arguments->options.min_frequency, "Times a pair must be seen to be merged")
          ->capture_default_str(),
      "TIMES", 1);
  command->callback([arguments] { run_train(*arguments); });
}

void add_encode(CLI::App& tokenizer) {
  auto arguments = std::make_shared<EncodeArguments>();
  CLI::App* command = tokenizer.add_subcommand("encode", "Print the token ids of each line of a file as a JSON array");
  model_place(command->add_option("--model", arguments->model,
                                  "Hugging Face directory, a tokenizer.json, or the name of a downloaded model"))
      ->required();
  command->add_option("--file", arguments->file, "Text file, UTF-8; - is standard input")
      ->required()
      ->type_name("FILE");
  command->add_flag("--bos", arguments->bos, "Put the bos token before each line");
  command->add_flag("--eos", arguments->eos, "Put the eos token after each line");
  command->add_flag("--plain", arguments->plain, "Read special tokens spelt out in the text as text");
  command->callback([arguments] { run_encode(*arguments); });
}

void add_decode(CLI::App& tokenizer) {
  auto arguments = std::make_shared<DecodeArguments>();
  CLI::App* command = tokenizer.add_subcommand("decode", "Print the text of token ids");
  model_place(command->add_option("--model", arguments->model,
                                  "Hugging Face directory, a tokenizer.json, or the name of a downloaded model"))
      ->required();
  command->add_option("--file", arguments->file, "File with a JSON array of ids a line; - is standard input")
      ->type_name("FILE");
  whole_number(command->add_option("IDS", arguments->ids, "Token ids"), "ID", 0, std::numeric_limits<int32_t>::max());
  command->add_flag("--skip-special-tokens", arguments->skip_special, "Leave special tokens out of the text");
  command->callback([arguments] { run_decode(*arguments); });
}

void add_render(CLI::App& tokenizer) {
  auto arguments = std::make_shared<RenderArguments>();
  CLI::App* command = tokenizer.add_subcommand("render", "Print the text that a chat template gives for messages");
  model_place(
      command->add_option("--model", arguments->model, "Hugging Face directory, or the name of a downloaded model"))
      ->required();
  command->add_option("--messages", arguments->messages, "JSON list of role and content; - is standard input")
      ->required()
      ->type_name("FILE");
  command->add_option("--chat-template", arguments->chat_template, "Jinja file to use instead of the model's own")
      ->type_name("FILE");
  command->add_flag("--no-generation-prompt", arguments->no_generation_prompt,
                    "Leave out what opens the assistant's next turn");
  add_template_options(*command, arguments->chat_variables);
  command->callback([arguments] { run_render(*arguments); });
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* tokenizer =
      app.add_subcommand("tokenizer", "Train and apply byte-level BPE tokenizers, render chat templates");
  tokenizer->require_subcommand(1);
  add_train(*tokenizer);
  add_encode(*tokenizer);
  add_decode(*tokenizer);
  add_render(*tokenizer);
}

}  // namespace deeptitan

#include "eval_command.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "device_option.h"
#include "generate/evaluate.h"
#include "generate/model_files.h"
#include "generate/text_generator.h"
#include "generate/token_pair.h"
#include "option_checks.h"
#include "standard_output.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

using Json = nlohmann::ordered_json;

struct EvalArguments {
  std::string model;
  std::string text;
  std::string token_ids;
  std::string pairs;
  std::string dtype = "auto";
  std::string device = "auto";
  int64_t context = 0;
  bool json = false;
};

void print_line(const std::string& line) {
  write_output(line + "\n");
  flush_output();
}

std::vector<int32_t> read_token_ids(const std::string& path) {
  const Json json = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  DT_CHECK_USAGE(json.is_array(), "{}: expected a JSON array of token ids", path);
  std::vector<int32_t> ids;
  for (const Json& id : json) {
    const bool in_range = id.is_number_unsigned() && id.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    DT_CHECK_USAGE(in_range, "{}: {} at place {} is not a token id", path, id.dump(), ids.size());
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void print_score(const TextScore& score, bool as_json) {
  if (!as_json) {
    print_line(fmt::format("tokens {}\nloss {:.6f} nats a token\nperplexity {:.4f}\nbits per byte {:.6f}",
                           score.token_ids.size(), score.loss, score.perplexity, score.bits_per_byte));
    return;
  }
  Json logprobs = Json::array({nullptr});
  for (size_t i = 1; i < score.logprobs.size(); ++i) logprobs.push_back(score.logprobs[i]);
  print_line(Json{{"token_ids", score.token_ids},
                  {"logprobs", logprobs},
                  {"loss", score.loss},
                  {"perplexity", score.perplexity},
                  {"bits_per_byte", score.bits_per_byte}}
                 .dump());
}

// A line of --pairs.
TokenPair parse_pair(const Tokenizer& tokenizer, const Json& json, const std::string& where) {
  const bool well_formed = json.is_object() && json.contains("context") && json["context"].is_string() &&
                           json.contains("continuation") && json["continuation"].is_string();
  DT_CHECK_USAGE(well_formed, "{}: expected an object with the texts context and continuation", where);
  return encode_pair(tokenizer, json["context"].get<std::string>(), json["continuation"].get<std::string>(), where);
}

std::vector<TokenPair> read_pairs(const Tokenizer& tokenizer, const std::string& path) {
  const std::string text = read_file(path);
  std::vector<TokenPair> pairs;
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    pairs.push_back(parse_pair(tokenizer, Json::parse(line, nullptr, /*allow_exceptions=*/false),
                               fmt::format("{} line {}", path, line_number)));
  }
  DT_CHECK_USAGE(!pairs.empty(), "{}: holds no pairs; expected a JSON object a line", path);
  return pairs;
}

void run_eval(const EvalArguments& arguments) {
  const ModelFiles files = open_model_files(arguments.model);
  const DeviceChoice device = choose_device(arguments.device);
  InferenceOptions options{.device = device.device,
                           .compute = parse_compute_dtype(arguments.dtype, device.device),
                           .context_length = arguments.context};
  const int64_t longest = arguments.context > 0 ? arguments.context : files.config.max_position_embeddings;

  if (!arguments.pairs.empty()) {
    const std::vector<TokenPair> pairs = read_pairs(files.tokenizer, arguments.pairs);
    int64_t needed = 1;
    for (const TokenPair& p : pairs) needed = std::max<int64_t>(needed, p.context.size() + p.continuation.size());
    options.context_length = std::min(longest, needed);
    const auto engine = load_engine(files, options);
    say_device(device);
    for (const TokenPair& p : pairs) {
      const ContinuationScore score = score_continuation(*engine, p.context, p.continuation);
      print_line(Json{{"logprob", score.logprob}, {"is_greedy", score.is_greedy}}.dump());
    }
    return;
  }
  std::vector<int32_t> ids;
  if (!arguments.token_ids.empty()) {
    ids = read_token_ids(arguments.token_ids);
  } else {
    ids = encode_prompt(files.tokenizer, valid_text(read_file(arguments.text), arguments.text));
  }
  DT_CHECK_USAGE(ids.size() >= 2, "a text of {} tokens has nothing to predict; expected at least 2", ids.size());
  options.context_length = std::min<int64_t>(longest, static_cast<int64_t>(ids.size()) - 1);
  const auto engine = load_engine(files, options);
  say_device(device);
  print_score(score_text(*engine, files.tokenizer, std::move(ids)), arguments.json);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command = app.add_subcommand("eval", "Measure how well a model predicts a text");
  command->add_option("--model", arguments->model, "Hugging Face model directory")->required()->type_name("DIR");
  CLI::Option_group* what = command->add_option_group("what");
  what->add_option("--text", arguments->text, "Text file, UTF-8: loss, perplexity and bits per byte");
  what->add_option("--token-ids", arguments->token_ids, "The same for a JSON array of token ids");
  what->add_option("--pairs", arguments->pairs,
                   "JSON lines {\"context\": TEXT, \"continuation\": TEXT}: prints for each {\"logprob\": nats, "
                   "\"is_greedy\": whether greedy decoding would give it}");
  what->require_option(1);
  command->add_flag(
      "--json", arguments->json,
      "Print one JSON object: token_ids, logprobs (natural logarithm, the first null), loss (nats a token), "
      "perplexity, bits_per_byte");
  whole_number(
      command
          ->add_option("--context", arguments->context,
                       "Length of a window; a longer text goes through windows that advance by half of it and keep "
                       "the first score of each token; 0: the model's max_position_embeddings")
          ->capture_default_str(),
      "TOKENS", 0);
  one_of(command->add_option("--dtype", arguments->dtype, "auto: bf16 where the chip multiplies it, else f32")
             ->capture_default_str(),
         {"auto", "bf16", "f32"});
  add_device_option(*command, arguments->device);
  command->callback([arguments] { run_eval(*arguments); });
}

}  // namespace deeptitan

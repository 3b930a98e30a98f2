#include "eval_command.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numbers>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "core/utf8.h"
#include "data/source_files.h"
#include "data/text_documents.h"
#include "device_option.h"
#include "eval_json.h"
#include "eval_request.h"
#include "generate/encode_prompt.h"
#include "generate/evaluate.h"
#include "generate/model_files.h"
#include "generate/text_generator.h"
#include "generate/token_pair.h"
#include "model_ranks.h"
#include "option_checks.h"
#include "standard_input.h"
#include "standard_output.h"
#include "terminal_line.h"
#include "threads_option.h"
#include "valid_text.h"

namespace deeptitan {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kRequestContext = 8192;

struct EvalArguments {
  std::string model;
  std::vector<std::string> texts;
  std::string token_ids;
  std::string pairs;
  std::string requests;
  std::string dtype = "auto";
  std::string experts = "auto";
  std::string device = "auto";
  int64_t context = 0;
  bool prefix_token = false;
  bool json = false;
  RankArguments ranks;
};

// What a file holds: one text, or the documents of its JSON.
struct NamedTexts {
  std::string name;
  std::vector<std::vector<int32_t>> documents;
};

void print_line(const std::string& line) {
  write_output(line + "\n");
  flush_output();
}

NamedTexts read_documents(const std::filesystem::path& file, const Tokenizer& tokenizer) {
  NamedTexts texts{file.string(), {}};
  const TextStatistics statistics =
      for_each_document({}, file, [&](std::string_view document, const std::string& /*where*/) {
        texts.documents.push_back(encode_prompt(tokenizer, document));
      });
  warn_of_replaced(file.string(), statistics.replaced_characters);
  if (texts.documents.empty()) texts.documents.push_back(encode_prompt(tokenizer, ""));
  return texts;
}

// The texts of files, and of directories' files, read as training reads them.
std::vector<NamedTexts> read_texts(const std::vector<std::string>& paths, const Tokenizer& tokenizer) {
  std::vector<NamedTexts> texts;
  for (const std::string& path : paths) {
    if (path == "-") {
      texts.push_back({path, {encode_prompt(tokenizer, valid_file_text(read_standard_input(), "standard input"))}});
      continue;
    }
    const SourceFiles found = list_source_files({}, path);
    for (const std::filesystem::path& file : found.files) texts.push_back(read_documents(file, tokenizer));
    if (found.binary > 0) {
      log_warning(fmt::format("{}: {} binary files are left out, the first is {} ({})", path, found.binary,
                              found.first_binary.string(), found.first_binary_holds));
    }
  }
  return texts;
}

// `longest` is the model's context.
std::vector<TokenPair> read_pairs(const ModelFiles& files, const std::string& path, int64_t longest) {
  const std::string text = read_file_or_input(path);
  std::vector<TokenPair> pairs;
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", path == "-" ? "standard input" : path, line_number);
    const Json json = read_json<Json>(utf8_sanitize(line).text, {.where = where, .kind = ErrorKind::kUsage});
    pairs.push_back(parse_pair(files.tokenizer, json, where));
    check_pair(pairs.back(), files.config.vocab_size, longest, where);
  }
  DT_CHECK_USAGE(!pairs.empty(), "{}: holds no pairs; expected a JSON object a line", path);
  return pairs;
}

// Texts as if their tokens had been scored in one.
class Total {
 public:
  void add(const TextScore& score) {
    const auto scored = static_cast<double>(score.token_ids.size() - 1);
    const double nats = score.loss * scored;
    tokens_ += static_cast<int64_t>(score.token_ids.size());
    scored_ += scored;
    nats_ += nats;
    if (score.bits_per_byte > 0) bytes_ += nats / std::numbers::ln2 / score.bits_per_byte;
  }
  void add(const Total& other) {
    tokens_ += other.tokens_;
    scored_ += other.scored_;
    nats_ += other.nats_;
    bytes_ += other.bytes_;
  }
  int64_t tokens() const { return tokens_; }
  double loss() const { return nats_ / scored_; }
  double perplexity() const { return std::exp(loss()); }
  double bits_per_byte() const { return bytes_ > 0 ? nats_ / std::numbers::ln2 / bytes_ : 0.0; }

 private:
  int64_t tokens_ = 0;
  double scored_ = 0;
  double nats_ = 0;
  double bytes_ = 0;
};

void print_row(const std::string& name, const Total& total) {
  print_line(fmt::format("{:>10} {:>10.6f} {:>12.4f} {:>10.6f}  {}", total.tokens(), total.loss(), total.perplexity(),
                         total.bits_per_byte(), name));
}

// Of several texts, those with nothing to predict: a file of a directory that is empty, say.
void leave_out_empty(std::vector<NamedTexts>& texts) {
  const auto is_empty = [](const std::vector<int32_t>& ids) { return ids.size() < 2; };
  size_t left_out = 0, kept = 0;
  std::string first;
  for (const NamedTexts& text : texts) {
    for (const std::vector<int32_t>& ids : text.documents) {
      kept += is_empty(ids) ? 0 : 1;
      if (is_empty(ids) && ++left_out == 1) first = text.name;
    }
  }
  if (left_out == 0 || kept == 0) return;
  for (NamedTexts& text : texts) std::erase_if(text.documents, is_empty);
  std::erase_if(texts, [](const NamedTexts& text) { return text.documents.empty(); });
  log_warning(fmt::format("{} of {} texts have nothing to predict and are left out, the first in {}", left_out,
                          left_out + kept, first));
}

void score_texts(const EvalArguments& arguments, const ModelFiles& files, const DeviceChoice& device,
                 InferenceOptions options, int64_t longest, std::vector<NamedTexts> texts) {
  for (NamedTexts& text : texts) {
    for (std::vector<int32_t>& ids : text.documents) {
      if (arguments.prefix_token) add_prefix_token(files.tokenizer, ids);
    }
  }
  leave_out_empty(texts);
  int64_t needed = 1;
  for (const NamedTexts& text : texts) {
    for (const std::vector<int32_t>& ids : text.documents) {
      const auto count = static_cast<int64_t>(ids.size());
      DT_CHECK_USAGE(count >= 2, "{}: a text of {} tokens has nothing to predict; expected at least 2",
                     text.name == "-" ? "standard input" : text.name, count);
      needed = std::max(needed, count - 1);
    }
  }
  options.context_length = std::min(longest, needed);
  const auto engine = load_engine(files, options);
  say_device(device);
  Total all;
  const bool several = texts.size() > 1;
  if (several && !arguments.json) print_line("    tokens       loss   perplexity  bits/byte  text");
  for (NamedTexts& text : texts) {
    Total total;
    for (std::vector<int32_t>& ids : text.documents) {
      const TextScore score = score_text(*engine, files.tokenizer, std::move(ids));
      total.add(score);
      if (!arguments.json) continue;
      Json json;
      if (several) json["file"] = text.name;
      json.update(score_as_json(score));
      print_line(json.dump());
    }
    all.add(total);
    if (arguments.json) continue;
    if (several) {
      print_row(text.name, total);
    } else {
      print_line(fmt::format("tokens {}\nloss {:.6f} nats a token\nperplexity {:.4f}\nbits per byte {:.6f}",
                             total.tokens(), total.loss(), total.perplexity(), total.bits_per_byte()));
    }
  }
  if (several && !arguments.json) print_row("all", all);
}

// Answers as the lines come, so that another program can ask one thing after another; what has come meanwhile is
// answered together.
void answer_requests(const std::string& path, EvalRequests& requests) {
  const std::string name = path == "-" ? "standard input" : path;
  constexpr size_t kMostAtOnce = 4096;
  int64_t number = 0;
  std::vector<EvalRequests::Line> lines;
  const auto add = [&](const std::string& line) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) return;
    lines.push_back({line, fmt::format("{}:{}", name, number)});
  };
  const auto answer = [&] {
    requests.answer(lines, print_line);
    lines.clear();
  };
  std::string line;
  if (path == "-") {
    ::fcntl(STDIN_FILENO, F_SETPIPE_SZ, 1 << 20);  // so that more come together; no matter where it cannot be had
    LineReader reader;
    while (reader.read(line) == LineResult::kLine) {
      add(line);
      while (lines.size() < kMostAtOnce && reader.read_ready(line)) add(line);
      answer();
    }
    return;
  }
  std::istringstream text(read_file(path));
  while (std::getline(text, line)) {
    add(line);
    if (lines.size() == kMostAtOnce) answer();
  }
  answer();
}

void eval_on(RunnerRanks* ranks, const DeviceChoice& device, const EvalArguments& arguments) {
  DT_CHECK_USAGE(!arguments.prefix_token || (arguments.pairs.empty() && arguments.requests.empty()),
                 "--prefix-token counts with --text and --token-ids; leave it out (a text of --requests has a field "
                 "prefix_token, and what a pair continues is its context)");
  const ModelFiles files = open_model_files(arguments.model);
  InferenceOptions options{.device = device.device,
                           .compute = parse_compute_dtype(arguments.dtype, device.device),
                           .context_length = arguments.context,
                           .experts = parse_expert_products(arguments.experts),
                           .ranks = ranks};
  DT_CHECK_USAGE(arguments.context <= files.config.max_position_embeddings,
                 "eval: --context = {} is more than the model's max_position_embeddings = {}; use at most that many "
                 "tokens",
                 arguments.context, files.config.max_position_embeddings);
  const int64_t longest = arguments.context > 0 ? arguments.context : files.config.max_position_embeddings;
  if (!arguments.requests.empty()) {
    options.context_length = arguments.context > 0 ? arguments.context : std::min(longest, kRequestContext);
    const RunnerOptions many = scoring_options(files.config, {.context_length = options.context_length});
    options.sequences = many.sequences;
    options.batch_tokens = many.batch_tokens;
    options.pages = many.pages;
    const auto engine = load_engine(files, options);
    say_device(device);
    EvalRequests requests(files, *engine);
    answer_requests(arguments.requests, requests);
  } else if (!arguments.pairs.empty()) {
    const std::vector<TokenPair> pairs = read_pairs(files, arguments.pairs, longest);
    int64_t needed = 1;
    for (const TokenPair& p : pairs) needed = std::max<int64_t>(needed, p.context.size() + p.continuation.size());
    ModelRunner runner(files.config, scoring_options(files.config, {.device = options.device,
                                                                    .compute = options.compute,
                                                                    .context_length = std::min(longest, needed),
                                                                    .experts = options.experts,
                                                                    .ranks = ranks}));
    load_into(runner, files);
    say_device(device);
    for (const ContinuationScore& score : score_pairs(runner, pairs)) {
      print_line(Json{{"logprob", score.logprob}, {"is_greedy", score.is_greedy}}.dump());
    }
  } else if (!arguments.token_ids.empty()) {
    const Json json = read_json<Json>(read_file_or_input(arguments.token_ids),
                                      {.where = arguments.token_ids, .kind = ErrorKind::kUsage});
    score_texts(arguments, files, device, options, longest,
                {{arguments.token_ids, {parse_token_ids(json, arguments.token_ids)}}});
  } else {
    score_texts(arguments, files, device, options, longest, read_texts(arguments.texts, files.tokenizer));
  }
}

void run_eval(const EvalArguments& arguments) {
  ModelRanks ranks(arguments.ranks, arguments.model, arguments.device);
  if (ranks.follow()) return;
  eval_on(ranks.get(), ranks.device(), arguments);
  ranks.finish();
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command = app.add_subcommand("eval", "Measure how well a model predicts a text");
  model_place(command->add_option("--model", arguments->model,
                                  "Hugging Face model directory, or the name of a downloaded model"))
      ->required();
  CLI::Option_group* what = command->add_option_group("what");
  what->add_option(
          "--text", arguments->texts,
          "Texts, read as a source of training is (UTF-8, JSON with a field text, compressed, directories): loss, "
          "perplexity and bits per byte of each file and of all; -: "
          "standard input")
      ->type_name("FILE");
  what->add_option("--token-ids", arguments->token_ids, "The same for a JSON array of token ids; -: standard input")
      ->type_name("FILE");
  what->add_option("--pairs", arguments->pairs,
                   "JSON lines {\"context\": TEXT, \"continuation\": TEXT} (or token ids for both): prints for each "
                   "{\"logprob\": nats, \"is_greedy\": whether greedy decoding would give it}; -: standard input")
      ->type_name("FILE");
  what->add_option(
          "--requests", arguments->requests,
          "JSON lines that are answered one by one as they come, for evaluation harnesses: {\"context\", "
          "\"continuation\"}, {\"text\"}, {\"prompt\", \"stop\", ...}, {\"encode\"}, {\"decode\"}, {\"render\"} or "
          "{\"info\"}; see docs/evaluation.md; -: standard input")
      ->type_name("FILE");
  what->require_option(1);
  command->add_flag("--json", arguments->json,
                    "Print one JSON object a text: token_ids, logprobs (natural logarithm, the first null), logprob "
                    "(their sum), loss "
                    "(nats a token), perplexity, bits_per_byte");
  command->add_flag("--prefix-token", arguments->prefix_token,
                    "Score the first token of a text too: behind bos, or eos where the tokenizer has no bos");
  whole_number(
      command
          ->add_option(
              "--context", arguments->context,
              "Length of a window; a longer text goes through windows that advance by half of it and keep "
              "the first score of each token; 0: the model's max_position_embeddings (with --requests 8192, if "
              "that is less)")
          ->capture_default_str(),
      "TOKENS", 0);
  add_dtype_option(*command, arguments->dtype);
  add_experts_option(*command, arguments->experts);
  add_device_option(*command, arguments->device);
  add_threads_option(*command);
  add_rank_options(*command, arguments->ranks);
  command->callback([arguments] { run_eval(*arguments); });
}

}  // namespace deeptitan

#include "init_command.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <omp.h>
#include <CLI/CLI.hpp>

#include "chat/chat_template.h"
#include "config/model_config_json.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/memory_plan.h"
#include "data/chat_line.h"
#include "data/text_documents.h"
#include "option_checks.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/tokenizer.h"
#include "train/starter_run.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSampleBytes = size_t{64} << 20;  // of the data: what a tokenizer is learnt from and tokens counted in
constexpr double kShareOfMemory = 0.8;             // the rest is for what else runs here

struct InitArguments {
  std::string data;
  std::string model;
  std::string tokenizer;
  std::string chat_template;
  std::string out = "run.toml";
};

// The beginning of the data, document by document, and how much there is.
struct DataSample {
  std::vector<std::string> documents;
  size_t sample_bytes = 0;
  int64_t bytes = 0;
  int64_t count = 0;
};

DataSample read_data(const std::string& path, bool chat) {
  TextSource source;
  source.path = path;
  if (chat) source.format = SourceFormat::kChat;
  DataSample sample;
  const TextStatistics statistics =
      for_each_document(source, path, [&](std::string_view document, const std::string& where) {
        if (chat) parse_chat_line(document, source.messages_field, where);  // what is wrong is said now
        if (sample.sample_bytes >= kSampleBytes) return;
        sample.documents.emplace_back(document.substr(0, kSampleBytes - sample.sample_bytes));
        sample.sample_bytes += sample.documents.back().size();
      });
  sample.bytes = statistics.bytes;
  sample.count = statistics.documents;
  DT_CHECK_USAGE(sample.count > 0, "{} holds no text", path);
  return sample;
}

int64_t count_tokens(const DataSample& sample, const Tokenizer& tokenizer) {
  constexpr size_t kCounted = size_t{1} << 20;
  size_t bytes = 0, tokens = 0;
  for (const std::string& document : sample.documents) {
    if (bytes >= kCounted) break;
    const std::string_view part = std::string_view(document).substr(0, kCounted - bytes);
    tokens += tokenizer.encode(part, {.add_special_tokens = false}).size() + 1;
    bytes += part.size();
  }
  return static_cast<int64_t>(static_cast<double>(tokens) / static_cast<double>(bytes) *
                              static_cast<double>(sample.bytes));
}

// A tokenizer of the data's own.
Tokenizer learn_tokenizer(const DataSample& sample) {
  constexpr size_t kMuchText = size_t{1} << 20;
  BpeTrainOptions options;
  if (sample.sample_bytes < kMuchText) options.vocab_size = 1024;
  const std::vector<std::string_view> views(sample.documents.begin(), sample.documents.end());
  return train_bpe(views, options);
}

std::string without_extension(const std::string& path) {
  return fs::path(path).replace_extension().string();
}

void run_init(StarterKind kind, const InitArguments& arguments) {
  DT_CHECK_USAGE(!fs::exists(arguments.out), "{} exists already; name another file with --out", arguments.out);
  const bool fresh = kind == StarterKind::kPretrain, chat = kind == StarterKind::kChat;
  StarterFacts facts;
  facts.kind = kind;
  facts.data = arguments.data;
  facts.folder = "runs/" + fs::path(arguments.out).stem().string();
  const DeviceChoice device = choose_device("auto");
  facts.memory = static_cast<int64_t>(kShareOfMemory * static_cast<double>(available_memory(device.device)));
  if (device.device.kind == DeviceKind::kCuda) {
    facts.device = "cuda";
    facts.machine = device.description;
  } else {
    facts.machine = fmt::format("{} cores", omp_get_max_threads());
  }
  facts.tokenizer = arguments.tokenizer;
  const DataSample sample = read_data(arguments.data, chat);
  std::optional<Tokenizer> learnt;
  if (fresh) {
    if (facts.tokenizer.empty()) {
      facts.tokenizer = without_extension(arguments.out) + "-tokenizer";
      DT_CHECK_USAGE(!fs::exists(facts.tokenizer), "{} exists already; give --tokenizer {}, or another --out",
                     facts.tokenizer, facts.tokenizer);
      learnt = learn_tokenizer(sample);
    }
    const Tokenizer tokenizer = learnt ? *learnt : Tokenizer::load(facts.tokenizer);
    facts.shape_name = "tiny-v3";
    facts.shape = named_model_config(facts.shape_name);
    // Even, as bf16 wants it.
    facts.vocab_size = (tokenizer.vocab_size() + 7) / 8 * 8;
    facts.shape.vocab_size = facts.vocab_size;
    facts.data_tokens = count_tokens(sample, tokenizer);
  } else {
    facts.model = arguments.model;
    facts.shape = load_model_config(arguments.model);
    const Tokenizer tokenizer = Tokenizer::load(arguments.model);
    facts.data_tokens = count_tokens(sample, tokenizer);
    facts.chat_template = arguments.chat_template;
    if (!arguments.chat_template.empty()) ChatTemplate::load(arguments.model, arguments.chat_template);
    const bool has_template =
        !chat || !arguments.chat_template.empty() ||
        ChatTemplate::in_texts(tokenizer.chat_template_jinja(), tokenizer.tokenizer_config_json());
    DT_CHECK_USAGE(has_template, "{} has no chat template; give one with --chat-template FILE", arguments.model);
  }
  const std::string text = starter_run_file(facts);
  if (learnt) {
    fs::create_directories(facts.tokenizer);
    learnt->save(facts.tokenizer);
    log_info(fmt::format("{}: a tokenizer of {} tokens, learnt from {} of the data", facts.tokenizer,
                         learnt->vocab_size(), format_bytes(sample.sample_bytes)));
  }
  write_file(arguments.out, text);
  log_info(fmt::format("{}: {} of data, about {} tokens in {} {}; read it, then deeptitan train {}", arguments.out,
                       format_bytes(static_cast<uint64_t>(sample.bytes)), facts.data_tokens, sample.count,
                       chat ? "conversations" : "documents", arguments.out));
}

void add_kind(CLI::App& init, const char* name, const char* description, StarterKind kind) {
  CLI::App* command = init.add_subcommand(name, description);
  auto arguments = std::make_shared<InitArguments>();
  command
      ->add_option(
          "DATA", arguments->data,
          kind == StarterKind::kChat ? "JSON lines of conversations" : "Text file, JSON file, or a directory of them")
      ->required()
      ->type_name("PATH");
  if (kind == StarterKind::kPretrain) {
    model_place(command->add_option("--tokenizer", arguments->tokenizer,
                                    "Directory with a tokenizer.json, or a downloaded model's (default: one is learnt "
                                    "from the data, beside the run file)"));
  } else {
    model_place(command->add_option("--model", arguments->model,
                                    "Hugging Face model directory to go on with, or the name of a downloaded model"))
        ->required();
  }
  if (kind == StarterKind::kChat) {
    command->add_option("--chat-template", arguments->chat_template, "Jinja file (default: the model's own template)")
        ->type_name("FILE");
  }
  command->add_option("--out", arguments->out, "Run file to write")->capture_default_str()->type_name("FILE");
  command->callback([arguments, kind] { run_init(kind, *arguments); });
}

}  // namespace

void add_init_command(CLI::App& app) {
  CLI::App* init = app.add_subcommand("init", "Write a run file that fits this machine and your data");
  init->require_subcommand(1);
  add_kind(*init, "pretrain", "A new small model on texts", StarterKind::kPretrain);
  add_kind(*init, "finetune", "A model that exists, on more texts", StarterKind::kFinetune);
  add_kind(*init, "chat", "A model that exists, on conversations", StarterKind::kChat);
}

}  // namespace deeptitan

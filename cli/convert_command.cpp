#include "convert_command.h"

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include "checkpoint/convert_directory.h"
#include "config/dtype_words.h"
#include "core/file.h"
#include "core/log.h"
#include "option_checks.h"

namespace deeptitan {
namespace {

struct ConvertArguments {
  std::string input;
  std::string output;
  std::string dtype;
  uint64_t max_shard_size = ConvertOptions().max_shard_bytes;
};

void run_convert(const ConvertArguments& arguments) {
  static const std::map<std::string, DType> kDTypes = {
      {"bf16", DType::kBF16}, {"fp32", DType::kF32}, {"fp8", DType::kF8E4M3}};
  ConvertOptions options;
  options.dtype = kDTypes.at(std::string(usual_dtype_word(arguments.dtype)));
  options.max_shard_bytes = arguments.max_shard_size;
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  if (terminal) {
    options.progress = [](uint64_t done, uint64_t total) {
      fmt::print(stderr, "\r{} of {} ({:.0f} %) ", format_bytes(done), format_bytes(total),
                 100.0 * static_cast<double>(done) / static_cast<double>(total));
    };
  }
  const ConvertSummary summary = convert_directory(arguments.input, arguments.output, options);
  if (terminal) fmt::print(stderr, "\n");
  log_info(fmt::format("{}: {} tensors, {}", arguments.output, summary.tensors, format_bytes(summary.bytes)));
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto arguments = std::make_shared<ConvertArguments>();
  CLI::App* command = app.add_subcommand("convert", "Rewrite a model directory with weights of another type");
  model_place(command->add_option("IN", arguments->input,
                                  "Hugging Face model directory to read, or the name of a downloaded model"))
      ->required();
  command->add_option("OUT", arguments->output, "Directory to write; must be new or empty")
      ->required()
      ->type_name("DIR");
  one_of(command
             ->add_option("--dtype", arguments->dtype,
                          "Type of the weights; fp8 is e4m3 with 128x128 blocks as in DeepSeek-V3's own files")
             ->required(),
         {"bf16", "fp32", "fp8"});
  byte_count(
      command->add_option("--max-shard-size", arguments->max_shard_size, "Largest tensor file, as in 5GB or 4GiB")
          ->capture_default_str());
  command->callback([arguments] { run_convert(*arguments); });
}

}  // namespace deeptitan

#include "generate/model_files.h"

#include <fmt/format.h>

#include "checkpoint/manifest.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/read_tensor.h"
#include "config/model_config_json.h"
#include "core/clock.h"
#include "core/dtype_word.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "model/model_cost.h"

namespace deeptitan {
namespace {

// What a person has waited for: a small model says nothing.
void say_time(uint64_t bytes, double seconds) {
  constexpr double kWorthSaying = 0.5;
  if (seconds < kWorthSaying) return;
  log_info(fmt::format("loaded {} in {:.2f} s, {:.1f} GB/s", format_bytes(bytes), seconds,
                       1e-9 * static_cast<double>(bytes) / seconds));
}

}  // namespace

ModelFiles open_model_files(const std::filesystem::path& directory) {
  const ModelConfig config = load_model_config(directory);
  std::error_code error;
  DT_CHECK_USAGE(!std::filesystem::is_regular_file(directory, error),
                 "{} is a file; expected a model's directory, which holds config.json, tokenizer.json and weights",
                 directory.string());
  const Tokenizer tokenizer = Tokenizer::load(directory);
  return {directory, config, tokenizer, load_generation_config(directory, config, tokenizer)};
}

void load_into(ModelRunner& runner, const ModelFiles& files) {
  check_model_directory(files.directory);
  const ModelDirectory weights(files.directory);
  const DType compute = runner.options().compute;
  const RunnerRanks* const ranks = runner.options().ranks;
  if (holds_float8(weights)) {
    const auto parameters = static_cast<uint64_t>(count_parameters(files.config).parameters);
    const auto experts = runner.options().experts;
    const bool narrow = experts && is_fp8(*experts);
    log_info(narrow ? fmt::format("the experts of {} stay in fp8, its other fp8 weights are widened to {}",
                                  files.directory.string(), dtype_word(compute))
                    : fmt::format("the fp8 weights of {} ({}) are widened to {}: {} of memory{}",
                                  files.directory.string(), format_bytes(weights.file_bytes()), dtype_word(compute),
                                  format_bytes(parameters * dtype_size(compute)),
                                  ranks == nullptr ? "" : ", which the ranks share out"));
  }
  if (ranks != nullptr) log_info(describe_ranks(ranks->mesh(), runner.memory()));
  runner.allocate();
  const double start = monotonic_seconds();
  runner.load(weights);
  if (ranks == nullptr) say_time(weights.file_bytes(), monotonic_seconds() - start);
}

std::unique_ptr<InferenceEngine> load_engine(const ModelFiles& files, const InferenceOptions& options) {
  auto engine = std::make_unique<InferenceEngine>(files.config, options);
  load_into(engine->runner(), files);
  return engine;
}

}  // namespace deeptitan

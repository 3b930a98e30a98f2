#include "bench_command.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "config/run_config_toml.h"
#include "core/error.h"
#include "data/synthetic_source.h"
#include "kernels/cpu/peak/peak.h"
#include "train/flops.h"
#include "train/memory_advice.h"

namespace deeptitan {
namespace {

using Json = nlohmann::ordered_json;

struct BenchArguments {
  std::string target;
  int64_t steps = 20;
  bool json = false;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Time by op, the largest first.
Json ops_of(const OpProfile& profile) {
  double total = 0;
  std::vector<std::pair<std::string, OpProfile::Entry>> entries(profile.entries.begin(), profile.entries.end());
  for (const auto& [name, entry] : entries) total += entry.seconds;
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  Json ops = Json::array();
  for (const auto& [name, entry] : entries) {
    ops.push_back({{"op", name}, {"share", entry.seconds / total}, {"calls", entry.calls}, {"gflops", entry.flops / std::max(1e-12, entry.seconds) / 1e9}});
  }
  return ops;
}

void print_report(const Json& report, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", report.dump());
    return;
  }
  for (const auto& [key, value] : report.items()) {
    if (key != "ops") fmt::print("{:<24} {}\n", key, value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.is_string() ? value.get<std::string>() : value.dump());
  }
  fmt::print("\n{:<32} {:>7} {:>8} {:>9}\n", "op", "share", "calls", "GFLOP/s");
  for (const Json& op : report["ops"]) {
    fmt::print("{:<32} {:>6.1f}% {:>8} {:>9.0f}\n", op["op"].get<std::string>(), 100 * op["share"].get<double>(),
               op["calls"].get<int64_t>(), op["gflops"].get<double>());
  }
}

void bench_train(const BenchArguments& a, const std::vector<std::string>& overrides) {
  const RunConfig config = load_run_config(a.target, parse_overrides(overrides));
  const ModelConfig model = resolve_model_config(config);
  const TrainingEngineOptions options = engine_options(config, bfloat16_is_native());
  TrainingEngine engine(model, options);
  check_fits(config, model, engine.plan(), available_memory());
  engine.allocate();
  engine.initialize(config.training.seed);
  SyntheticSource source(model.vocab_size, config.training.seq_len, config.training.seed);
  std::vector<PackedBatch> batches(config.microbatches_per_step());
  const bool bf16 = options.compute == DType::kBF16;
  const auto type = bf16 ? cpu::OperandType::kBfloat16 : cpu::OperandType::kFloat;
  const double peak_before = cpu::measure_matrix_peak(type, 0.5);
  OpProfile profile;
  std::vector<double> seconds;
  constexpr int64_t kWarmUp = 2;
  for (int64_t step = 1; step <= a.steps + kWarmUp; ++step) {
    int64_t targets = 0;
    for (PackedBatch& batch : batches) {
      source.next_batch(config.training.local_batch_size, &batch);
      targets += batch.target_count;
    }
    if (step == kWarmUp + 1) engine.set_profile(&profile);
    const double start = now();
    engine.begin_step(step, config.optimizer.lr, targets, static_cast<int64_t>(batches.size()));
    for (const PackedBatch& batch : batches) engine.add_microbatch(batch);
    engine.finish_step();
    if (step > kWarmUp) seconds.push_back(now() - start);
  }
  // The peak is taken on both sides of the run: a shared machine may change its mind in between.
  const double peak = std::max(peak_before, cpu::measure_matrix_peak(type, 0.5));
  const double tokens_per_second = static_cast<double>(config.tokens_per_step()) / median(seconds);
  const double flops = tokens_per_second * training_flops_per_token(model, config.training.seq_len);
  Json report;
  report["bench"] = "train";
  report["config"] = a.target;
  report["dtype"] = bf16 ? "bf16" : "fp32";
  report["steps"] = a.steps;
  report["tokens_per_step"] = config.tokens_per_step();
  report["tokens_per_second"] = tokens_per_second;
  report["step_seconds_median"] = median(seconds);
  report["step_seconds_min"] = *std::min_element(seconds.begin(), seconds.end());
  report["step_seconds_max"] = *std::max_element(seconds.begin(), seconds.end());
  report["gflops"] = flops / 1e9;
  report["matrix_peak_gflops"] = peak / 1e9;
  report["share_of_peak"] = flops / peak;
  report["ops"] = ops_of(profile);
  print_report(report, a.json);
}

CLI::App* add_mode(CLI::App& bench, const char* name, const char* description, const std::shared_ptr<BenchArguments>& arguments,
                   const char* target) {
  CLI::App* mode = bench.add_subcommand(name, description);
  mode->add_option("target", arguments->target, target)->required();
  mode->add_option("--steps", arguments->steps, "Timed repetitions; the median counts")->capture_default_str()->check(CLI::PositiveNumber);
  mode->add_flag("--json", arguments->json, "Print one JSON object");
  return mode;
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed against what this machine can do, in the same run");
  bench->require_subcommand(1);
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* train = add_mode(*bench, "train", "Training steps on random tokens: tokens/s, share of the matrix peak, time by op", arguments, "Run file (TOML)");
  train->allow_extras();
  train->callback([train, arguments] { bench_train(*arguments, train->remaining()); });
}

}  // namespace deeptitan

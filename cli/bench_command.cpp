#include "bench_command.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "bench_report.h"
#include "config/model_config_json.h"
#include "config/run_config_toml.h"
#include "core/clock.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "data/synthetic_source.h"
#include "device_option.h"
#include "device_peaks.h"
#include "generate/model_runner.h"
#include "generate/sampler.h"
#include "generate/scheduler.h"
#include "generate/sequence.h"
#include "hub/cached_model.h"
#include "model/model_cost.h"
#include "option_checks.h"
#include "planned_model.h"
#include "run_file.h"
#include "threads_option.h"
#include "train/memory_advice.h"
#include "train/run_ranks.h"
#include "usage_message.h"

namespace deeptitan {
namespace {

// A GPU's parts run op by op once and are captured the second time.
constexpr int64_t kTrainingWarmUp = 2;
constexpr int64_t kTrainingWarmUpOnGpu = 4;
constexpr int64_t kInferenceWarmUp = 3;

struct BenchArguments {
  std::string target;
  int64_t steps = 20;
  int64_t tokens = 512;
  int64_t batch = 1;
  int64_t cached = 0;
  std::string dtype = "auto";
  std::string experts = "auto";
  std::string device = "auto";
  std::string profile;
  SamplingOptions sampling = {.temperature = 0};
  bool json = false;
};

bool on_gpu(Device device) {
  return device.kind == DeviceKind::kCuda;
}

void write_trace(const BenchArguments& a, const OpProfile& profile) {
  if (a.profile.empty()) return;
  write_file(a.profile, chrome_trace(profile));
}

/// The beginning of a report, and what the device does at most.
void report_device(Json& report, const DeviceChoice& choice) {
  if (on_gpu(choice.device)) report["device"] = choice.description;
}

void report_seconds(Json& report, const std::vector<double>& seconds) {
  report["step_seconds_median"] = median(seconds);
  report["step_seconds_min"] = *std::min_element(seconds.begin(), seconds.end());
  report["step_seconds_max"] = *std::max_element(seconds.begin(), seconds.end());
}

void bench_train(const BenchArguments& a, const std::vector<std::string>& overrides) {
  RunConfig config = load_run_file(a.target, parse_overrides(overrides));
  const DeviceChoice choice = choose_device(a.device);
  config.training.device = a.device;
  mesh_of_run(config, 1);
  const ModelConfig model = resolve_model_config(config);
  TrainingEngineOptions options = engine_options(config, bfloat16_is_native());
  const bool gpu = on_gpu(options.device);
  options.report_lag = gpu ? 1 : 0;
  TrainingEngine engine(model, options);
  check_fits(config, model, engine, available_memory(options.device));
  const double peak_before = measure_matrix_peak(options.device, options.compute, 0.5);
  engine.allocate();
  engine.initialize(config.training.seed);
  SyntheticSource source(model.vocab_size, config.training.seq_len, config.training.seed);
  std::vector<PackedBatch> batches(config.microbatches_per_step());
  OpProfile profile;
  profile.keep_spans = !a.profile.empty();
  std::vector<double> seconds;
  const auto run_step = [&](int64_t step) {
    int64_t targets = 0;
    for (PackedBatch& batch : batches) {
      source.next_batch(config.training.local_batch_size, &batch);
      targets += batch.target_count;
    }
    const double start = monotonic_seconds();
    engine.begin_step(step, config.optimizer.lr, targets, static_cast<int64_t>(batches.size()));
    for (const PackedBatch& batch : batches) engine.add_microbatch(batch);
    engine.end_step();
    engine.due_report();  // of the step before on a GPU, where a step takes as long as it takes to wait for that
    return monotonic_seconds() - start;
  };
  const int64_t warm_up = gpu ? kTrainingWarmUpOnGpu : kTrainingWarmUp;
  for (int64_t step = 1; step <= a.steps + warm_up; ++step) {
    // A GPU's ops are looked at in a step of their own, which is not captured.
    if (step == warm_up + 1 && !gpu) engine.set_profile(&profile);
    const double time = run_step(step);
    if (step > warm_up) seconds.push_back(time);
  }
  if (gpu) {
    engine.remaining_report();
    engine.set_profile(&profile);
    run_step(a.steps + warm_up + 1);
    profile.finish();
  }
  write_trace(a, profile);
  // The peak is taken on both sides of the run: a shared machine may change its mind in between.
  const double peak =
      gpu ? peak_before : std::max(peak_before, measure_matrix_peak(options.device, options.compute, 0.5));
  const double bandwidth = gpu ? measure_memory_peak(options.device, 0) : 0;
  const double tokens_per_second = static_cast<double>(config.tokens_per_step()) / median(seconds);
  const double flops = tokens_per_second * training_flops_per_token(model, config.training.seq_len);
  Json report;
  report["bench"] = "train";
  report["config"] = a.target;
  report_device(report, choice);
  report["dtype"] = options.compute == DType::kBF16 ? "bf16" : "fp32";
  report["steps"] = a.steps;
  report["tokens_per_step"] = config.tokens_per_step();
  report["tokens_per_second"] = tokens_per_second;
  report_seconds(report, seconds);
  report["gflops"] = flops / 1e9;
  report["matrix_peak_gflops"] = peak / 1e9;
  if (gpu) report["memory_peak_gigabytes_per_second"] = bandwidth / 1e9;
  report["share_of_peak"] = flops / peak;
  report["ops"] = ops_of(profile, {peak, bandwidth});
  print_report(report, a.json);
}

// A run file's model, a shape by its name, or the one of a Hugging Face directory or config.json.
ModelConfig model_of(const std::string& target) {
  if (target.ends_with(".toml")) return resolve_model_config(load_run_file(target));
  if (is_shape_word(target)) return named_model_config(target);
  return load_model_config(model_directory_of(target));
}

// Of `batch` tokens: each weight that all meet once, and of each layer's experts those that an even choice hits.
double decode_bytes(const ModelConfig& model, DType dtype, int64_t batch, int64_t cached) {
  const int64_t active = count_parameters(model).active_parameters;
  const int64_t expert = 3 * model.hidden_size * model.moe_intermediate_size;
  int64_t layers = 0;
  for (int64_t layer = 0; layer < model.num_hidden_layers; ++layer) layers += model.is_moe_layer(layer) ? 1 : 0;
  double met = static_cast<double>(active);
  if (model.n_routed_experts > 0) {
    const auto chosen = static_cast<double>(model.num_experts_per_tok),
               all = static_cast<double>(model.n_routed_experts);
    const double hit = all * (1 - std::pow(1 - chosen / all, static_cast<double>(batch)));
    met += (hit - chosen) * static_cast<double>(layers * expert);
  }
  return met * static_cast<double>(dtype_size(dtype)) +
         static_cast<double>(batch * cached * cache_bytes_per_token(model, dtype));
}

// Prompts as they are run where text is generated: in batches and chunks that the scheduler makes.
void read_prompts(ModelRunner& runner, std::vector<Sequence>& sequences) {
  Scheduler scheduler(runner);
  for (Sequence& sequence : sequences) scheduler.add(&sequence, sequence.length(), 0);
  for (auto rows = scheduler.next(); !rows.empty(); rows = scheduler.next()) runner.run(rows);
}

// Weights are drawn, not read: what is measured does not depend on them.
void bench_inference(const BenchArguments& a, bool decode) {
  ModelConfig model = model_of(a.target);
  const int64_t cached = decode ? a.tokens : a.cached;
  const int64_t context = cached + (decode ? a.steps + kInferenceWarmUp + 1 : a.tokens);
  model.max_position_embeddings = std::max(model.max_position_embeddings, context);
  const DeviceChoice choice = choose_device(a.device);
  const bool gpu = on_gpu(choice.device);
  const DType dtype = parse_compute_dtype(a.dtype, choice.device);
  ModelRunner runner(model, {.device = choice.device,
                             .compute = dtype,
                             .context_length = context,
                             .sequences = a.batch,
                             .batch_tokens = std::min(a.batch * a.tokens, usual_prefill_chunk(choice.device)),
                             .experts = parse_expert_products(a.experts)});
  const auto peak = [&] {
    return decode ? measure_memory_peak(choice.device, 0.5) : measure_matrix_peak(choice.device, dtype, 0.5);
  };
  const double peak_before = peak();
  const DevicePeaks peaks =
      !gpu ? DevicePeaks()
           : DevicePeaks{measure_matrix_peak(choice.device, dtype, 0), measure_memory_peak(choice.device, 0)};
  runner.allocate();
  runner.initialize(1);
  const uint64_t key = random_key("bench/tokens", 1);
  std::vector<Sequence> sequences(a.batch);
  const auto add_tokens = [&](int64_t count) {
    for (int64_t i = 0; i < a.batch; ++i) {
      for (int64_t t = 0; t < count; ++t) {
        const int64_t place = i * context + sequences[i].length();
        sequences[i].tokens.push_back(static_cast<int32_t>(random_bits(key, place) % model.vocab_size));
      }
    }
  };
  OpProfile profile;
  profile.keep_spans = !a.profile.empty();
  std::vector<double> seconds;
  add_tokens(cached);
  if (cached > 0) read_prompts(runner, sequences);
  std::vector<ModelRunner::Rows> rows;
  const Sampler sampler(a.sampling, {});
  std::vector<EarlierTokens> earlier(sequences.size());
  std::vector<NextToken> next(sequences.size());
  rows.reserve(sequences.size());
  for (Sequence& sequence : sequences) rows.push_back({&sequence, 1});
  const auto run_step = [&] {
    if (!decode) {
      for (Sequence& sequence : sequences) runner.truncate(sequence, cached);
    }
    add_tokens(decode ? 1 : a.tokens);
    const double start = monotonic_seconds();
    if (decode) {
      for (size_t i = 0; i < sequences.size(); ++i) {
        next[i].choice = sampler.choice(sequences[i].length());
        if (a.sampling.repetition_penalty != 1) next[i].earlier = earlier[i].of(sequences[i].tokens);
      }
      runner.run(rows, next);
    } else {
      read_prompts(runner, sequences);
    }
    return monotonic_seconds() - start;
  };
  for (int64_t step = 0; step < a.steps + kInferenceWarmUp; ++step) {
    if (step == kInferenceWarmUp && !gpu) runner.set_profile(&profile);
    const double time = run_step();
    if (step >= kInferenceWarmUp) seconds.push_back(time);
  }
  if (gpu) {
    runner.set_profile(&profile);
    run_step();
    profile.finish();
  }
  write_trace(a, profile);
  const double best_peak = gpu ? peak_before : std::max(peak_before, peak());
  const double tokens_per_second = static_cast<double>(a.batch * (decode ? 1 : a.tokens)) / median(seconds);
  Json report;
  report["bench"] = decode ? "decode" : "prefill";
  report["config"] = a.target;
  report_device(report, choice);
  report["dtype"] = dtype == DType::kBF16 ? "bf16" : "fp32";
  report["steps"] = a.steps;
  if (!decode) report["tokens"] = a.tokens;
  if (cached > 0) report["cached_tokens"] = cached;
  if (decode || a.batch > 1) report["batch"] = a.batch;
  report["tokens_per_second"] = tokens_per_second;
  report_seconds(report, seconds);
  if (decode) {
    // What a step must read: the weights it meets, and the cache.
    const double bytes = decode_bytes(model, dtype, a.batch, a.tokens) / median(seconds);
    report["gflops"] = tokens_per_second * decode_flops_per_token(model, a.tokens) / 1e9;
    report["gigabytes_per_second"] = bytes / 1e9;
    report["memory_peak_gigabytes_per_second"] = best_peak / 1e9;
    report["share_of_peak"] = bytes / best_peak;
  } else {
    const double flops = flops_of(profile) / static_cast<double>(gpu ? 1 : a.steps) / median(seconds);
    report["gflops"] = flops / 1e9;
    report["matrix_peak_gflops"] = best_peak / 1e9;
    report["share_of_peak"] = flops / best_peak;
  }
  report["ops"] = ops_of(profile, peaks);
  print_report(report, a.json);
}

CLI::App* add_mode(CLI::App& bench, const char* name, const char* description,
                   const std::shared_ptr<BenchArguments>& arguments, const char* target) {
  CLI::App* mode = bench.add_subcommand(name, description);
  mode->add_option("TARGET", arguments->target, target)->required()->type_name("FILE|DIR");
  whole_number(
      mode->add_option("--steps", arguments->steps, "Timed repetitions; the median counts")->capture_default_str(),
      "STEPS", 1);
  add_device_option(*mode, arguments->device);
  mode->add_option("--profile", arguments->profile,
                   "Write the ops of the timed steps, on a GPU of one step more, as a trace for chrome://tracing")
      ->type_name("FILE");
  mode->add_flag("--json", arguments->json, "Print one JSON object");
  add_threads_option(*mode);
  return mode;
}

// Where the logits lie, as they are where texts are generated.
void add_choice_options(CLI::App& mode, SamplingOptions& sampling) {
  number_in(mode.add_option("--temperature", sampling.temperature, "Tokens are drawn; 0: the likeliest is taken")
                ->capture_default_str(),
            0);
  whole_number(mode.add_option("--top-k", sampling.top_k, "Only the k likeliest tokens; 0: all")->capture_default_str(),
               "TOKENS", 0);
  number_in(
      mode.add_option("--top-p", sampling.top_p, "Only the likeliest tokens until their probabilities sum to this")
          ->capture_default_str(),
      0, 1, LowerBound::kAbove);
  number_in(
      mode.add_option("--min-p", sampling.min_p, "Only tokens of at least this share of the likeliest's probability")
          ->capture_default_str(),
      0, 1);
  number_in(mode.add_option("--repetition-penalty", sampling.repetition_penalty,
                            "Makes tokens that have appeared less likely; 1: none")
                ->capture_default_str(),
            0, std::numeric_limits<double>::infinity(), LowerBound::kAbove);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed against what this machine can do, in the same run");
  bench->require_subcommand(1);
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* train =
      add_mode(*bench, "train", "Training steps on random tokens: tokens/s, share of the matrix peak, time by op",
               arguments, "Run file (TOML)");
  train->allow_extras();
  train->callback([train, arguments] { bench_train(*arguments, run_file_overrides(*train)); });
  const auto add_inference = [&](const char* name, const char* description, const char* tokens, bool decode) {
    CLI::App* mode =
        add_mode(*bench, name, description, arguments,
                 "Run file (TOML), model directory or config.json, or a shape by its name, such as v2-lite");
    whole_number(mode->add_option("--tokens", arguments->tokens, tokens)->capture_default_str(), "TOKENS", 1);
    one_of(mode->add_option("--dtype", arguments->dtype,
                            "auto: bf16 on a GPU and where the processor multiplies it, else fp32")
               ->capture_default_str(),
           {"auto", "bf16", "fp32"});
    whole_number(mode->add_option("--batch", arguments->batch,
                                  decode ? "Sequences that are decoded at once" : "Prompts that are read at once")
                     ->capture_default_str(),
                 "SEQUENCES", 1);
    if (!decode) {
      whole_number(mode->add_option("--cached", arguments->cached, "Tokens in the cache before each prompt")
                       ->capture_default_str(),
                   "TOKENS", 0);
    }
    if (decode) add_choice_options(*mode, arguments->sampling);
    add_experts_option(*mode, arguments->experts);
    mode->callback([arguments, decode] { bench_inference(*arguments, decode); });
  };
  add_inference("decode", "Tokens generated one after another: tokens/s, share of the memory's bandwidth, time by op",
                "Tokens in the cache before the first", true);
  add_inference("prefill", "A prompt read at once: tokens/s, share of the matrix peak, time by op",
                "Tokens of each prompt", false);
}

}  // namespace deeptitan

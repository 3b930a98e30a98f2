// Times training steps over GPUs, one process each, and what of them is exchange: by leaving it out.
//
//   mpirun -np N ranks_bench RUN.toml [--steps STEPS] [alone] [whole] [no_gradient_sums] [no_values]
//
//   alone             every GPU by itself, with the model whole: what one GPU does
//   whole             all of them together
//   no_gradient_sums  the same, but gradients are not added up over the ranks
//   no_values         the same, but new values are not brought to the others either
//
// Each is timed twice: whole steps, and of further steps what comes before the update, which is forward and backward of
// all microbatches and the gradients' sums. What is left out makes the numbers wrong, not the work less. Random tokens,
// drawn weights; the slowest rank counts.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "comm/host_communicator.h"
#include "comm/mpi/mpi_world.h"
#include "config/run_config_toml.h"
#include "core/clock.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "data/synthetic_source.h"
#include "ops/linear.h"
#include "parallel/device_groups.h"
#include "train/memory_advice.h"
#include "train/run_ranks.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

constexpr int kWarmUp = 4;

/// Stands for a group, and leaves out what it would exchange.
class LeftOut final : public Communicator {
 public:
  LeftOut(Communicator& group, bool sums, bool values) : group_(group), sums_(sums), values_(values) {}
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  const std::string& name() const override { return group_.name(); }
  double deadline() const override { return group_.deadline(); }
  void set_deadline(double seconds) override { group_.set_deadline(seconds); }

 private:
  void run_all_reduce(ExecutionContext& ctx, const Tensor& x) override {
    if (!sums_) group_.all_reduce(ctx, x);
  }
  void run_reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) override {
    if (!sums_) group_.reduce_scatter(ctx, x, parts);
  }
  void run_all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) override {
    if (!values_) group_.all_gather(ctx, x, parts);
  }
  void run_all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                      const Tensor& send, std::span<const int64_t> send_rows) override {
    group_.all_to_all(ctx, receive, receive_rows, send, send_rows);
  }
  void run_send(ExecutionContext& ctx, const Tensor& x, int to) override { group_.send(ctx, x, to); }
  void run_finish_sends(ExecutionContext& ctx, const Tensor& x) override { group_.finish_send(ctx, x); }
  void run_receive(ExecutionContext& ctx, const Tensor& x, int from) override { group_.receive(ctx, x, from); }
  void run_broadcast(ExecutionContext& ctx, const Tensor& x, int root) override { group_.broadcast(ctx, x, root); }
  void run_barrier(ExecutionContext& ctx) override { group_.barrier(ctx); }

  Communicator& group_;
  bool sums_, values_;
};

/// Normal values that repeat, so that billions are there at once.
class RepeatedValues final : public ParameterSource {
 public:
  explicit RepeatedValues(double range) : drawn_(1, range), normal_(kDrawn) {
    fill_normal(normal_.data(), kDrawn, 7, static_cast<float>(range), 0);
  }
  void read(const Parameter& parameter, const FileTensor& tensor, DType dtype, void* values) const override {
    if (dtype != DType::kF32 || parameter.spec.initialization != Initialization::kNormal) {
      return drawn_.read(parameter, tensor, dtype, values);
    }
    auto* const to = static_cast<float*>(values);
    size_t from = std::hash<std::string>()(tensor.name) % kDrawn;
    for (int64_t at = 0; at < tensor.numel(); from = 0) {
      const auto count = std::min<int64_t>(static_cast<int64_t>(kDrawn - from), tensor.numel() - at);
      std::copy_n(normal_.data() + from, count, to + at);
      at += count;
    }
  }

 private:
  static constexpr size_t kDrawn = 9'999'991;  // no multiple of a row
  DrawnValues drawn_;
  std::vector<float> normal_;
};

struct Rank {
  MpiWorld& world;
  DeviceChoice device;
  RunConfig config;
  Mesh mesh;
  HostGroups& host;
  const RankGroups& groups;
  int steps;
};

struct Seconds {
  double step, forward_backward;
};

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

// Medians of the slowest rank.
Seconds time_steps(const Rank& rank, const RankGroups& groups, int64_t microbatches) {
  const ModelConfig model = resolve_model_config(rank.config);
  TrainingEngineOptions options = engine_options(rank.config, bfloat16_is_native(), groups);
  options.device = rank.device.device;
  options.report_lag = 1;
  TrainingEngine engine(model, options);
  engine.allocate();
  engine.load(std::make_shared<RepeatedValues>(model.initializer_range));
  SyntheticSource source(model.vocab_size, rank.config.training.seq_len,
                         rank.config.training.seed + static_cast<uint64_t>(rank.world.rank()));
  std::vector<PackedBatch> batches(static_cast<size_t>(microbatches));
  std::vector<double> steps, forward_backward;
  for (int step = 1; step <= kWarmUp + 2 * rank.steps; ++step) {
    const bool in_two = step > kWarmUp + rank.steps;
    int64_t targets = 0;
    for (PackedBatch& batch : batches) {
      source.next_batch(rank.config.training.local_batch_size, &batch);
      targets += batch.target_count * ranks_in(groups.data);
    }
    if (in_two) engine.updates();  // waits for what has been queued
    const double start = monotonic_seconds();
    engine.begin_step(step, rank.config.optimizer.lr, targets, microbatches);
    for (const PackedBatch& batch : batches) engine.add_microbatch(batch);
    if (in_two) {
      engine.updates();
      forward_backward.push_back(monotonic_seconds() - start);
    }
    engine.end_step();
    engine.due_report();
    if (step > kWarmUp && !in_two) steps.push_back(monotonic_seconds() - start);
  }
  engine.remaining_report();
  std::vector<double> all(2 * static_cast<size_t>(rank.mesh.world()), 0.0);
  all[2 * rank.world.rank()] = median(steps);
  all[2 * rank.world.rank() + 1] = median(forward_backward);
  ExecutionContext ctx;
  rank.host.groups().host->all_reduce(ctx, Tensor(all.data(), DType::kF64, {std::ssize(all)}));
  Seconds slowest{0, 0};
  for (size_t r = 0; r < all.size(); r += 2) {
    slowest.step = std::max(slowest.step, all[r]);
    slowest.forward_backward = std::max(slowest.forward_backward, all[r + 1]);
  }
  return slowest;
}

void report(const Rank& rank, const std::string& mode) {
  const int64_t microbatches = rank.config.microbatches_per_step() / rank.mesh.data_ranks();
  const int64_t tokens = rank.config.training.seq_len * rank.config.training.local_batch_size * microbatches;
  const auto say = [&](const Seconds& seconds) {
    if (rank.world.rank() != 0) return;
    fmt::print("{}: {}, {:.2f} ms, {:.0f} tokens a second and GPU; forward and backward {:.2f} ms, {:.0f}\n", mode,
               rank.mesh.describe(), 1e3 * seconds.step, static_cast<double>(tokens) / seconds.step,
               1e3 * seconds.forward_backward, static_cast<double>(tokens) / seconds.forward_backward);
    std::fflush(stdout);
  };
  if (mode == "alone") return say(time_steps(rank, {}, microbatches));
  RankGroups groups = rank.groups;
  std::vector<std::unique_ptr<LeftOut>> left_out;
  const auto leave_out = [&](Communicator*& group) {
    if (mode == "whole" || ranks_in(group) == 1) return;
    left_out.push_back(std::make_unique<LeftOut>(*group, true, mode == "no_values"));
    group = left_out.back().get();
  };
  for (RankGroups::Copies* copies : {&groups.dense, &groups.experts}) {
    leave_out(copies->shard);
    leave_out(copies->replicate);
  }
  if (mode != "whole") groups.gradient_memory = nullptr;
  if (mode == "no_values") groups.value_memory = nullptr;
  say(time_steps(rank, groups, microbatches));
}

void run(int argc, char** argv, MpiWorld& world) {
  int steps = 6;
  std::vector<std::string> modes;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--steps" && i + 1 < argc) {
      steps = std::stoi(argv[++i]);
    } else {
      modes.push_back(word);
    }
  }
  DT_CHECK_USAGE(argc > 1, "ranks_bench RUN.toml [--steps STEPS] [MODE ...]");
  if (modes.empty()) modes = {"alone", "whole", "no_gradient_sums", "no_values"};
  RunConfig config = parse_run_config(read_file(argv[1]), argv[1]);
  const DeviceChoice device = choose_device("cuda", {.rank = world.local_rank(), .ranks = world.local_size()});
  config.training.device = "cuda";
  const Mesh mesh = mesh_of_run(config, world.size());
  config = with_global_batch(config, mesh);
  HostGroups host(world.transport(), mesh);
  const DeviceGroups groups(host, mesh, device.device);
  if (world.rank() == 0) fmt::print("{}; {}\n", device.description, mesh.describe());
  const Rank rank{world, device, config, mesh, host, groups.groups(), steps};
  for (const std::string& mode : modes) report(rank, mode);
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  try {
    const std::optional<deeptitan::Launch> launch = deeptitan::find_launch();
    DT_CHECK_USAGE(launch, "ranks_bench runs under mpirun -np N");
    deeptitan::MpiWorld world(*launch);
    deeptitan::run(argc, argv, world);
    world.finish(deeptitan::kDefaultDeadline);
    return 0;
  } catch (const deeptitan::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    deeptitan::end_all_ranks(1);
    return 1;
  }
}

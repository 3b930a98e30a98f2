#include "train/training_engine.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "comm/exchange_scope.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "model/moe/on_device_dispatcher.h"
#include "ops/moe.h"
#include "ops/optimizer.h"
#include "train/freeze.h"

namespace deeptitan {
namespace {

std::vector<Stage> stages_here(const ModelConfig& config, const TrainingEngineOptions& o) {
  if (!o.groups.pipelined()) return {};
  return stages_of_rank(split_into_stages(config.num_hidden_layers, o.schedule.stages), o.schedule,
                        o.groups.pipeline->rank());
}

ModelOptions model_options(const ModelConfig& config, const TrainingEngineOptions& o) {
  ModelOptions options = {.compute = o.compute,
                          .max_positions = o.seq_len,
                          .recomputation = o.recomputation,
                          .next_token_prediction = o.next_token_prediction,
                          .auxiliary_weight = o.auxiliary_weight,
                          .make_dispatcher = o.make_dispatcher,
                          .stages = stages_here(config, o),
                          .mtp_weight = o.mtp_weight};
  if (ranks_in(o.groups.ep) > 1) {
    options.experts = experts_of_rank(config.n_routed_experts, *o.groups.ep);
    options.make_dispatcher = o.groups.expert_memory == nullptr
                                  ? make_all_to_all_dispatcher(*o.groups.ep, o.expert_room)
                                  : make_on_device_dispatcher(*o.groups.expert_memory, o.expert_room);
  }
  return options;
}

// Sets of uploads that can be on their way: those of a step while the next one's are made.
constexpr int kUploadsOnTheirWay = 16;

// Of StepPart: each is a graph where graphs are captured.
constexpr std::array kPartNames = {"its begin", "its first microbatch", "a later microbatch", "its end"};

}  // namespace

TrainingEngine::TrainingEngine(const ModelConfig& config, const TrainingEngineOptions& options)
    : options_(options),
      model_(config, model_options(config, options)),
      statistics_(model_.total_layers()),
      runner_(model_, split_into_stages(config.num_hidden_layers, options.schedule.stages), options.schedule,
              options.groups),
      shards_(options.groups),
      gradient_shards_(shards_, model_, options.zero_stage,
                       split_into_stages(config.num_hidden_layers, options.schedule.stages),
                       options.schedule.microbatches),
      optimizer_(make_optimizer(options.optimizer), options.weight_decay) {
  const auto arena = [&](const char* name) {
    arenas_.push_back(std::make_unique<Arena>(name, options_.device));
    return arenas_.back().get();
  };
  parameters_ = arena("parameters");
  gradients_ = arena("gradients");
  optimizer_memory_ = arena("optimizer");
  prepared_ = arena("prepared weights");
  activations_ = arena("activations");
  activation_gradients_ = arena("activation gradients");
  const bool layers_share = options_.recomputation == Recomputation::kLayers && runner_.has_many_records();
  if (options_.recomputation == Recomputation::kCheap || layers_share) recomputed_ = arena("recomputed activations");
  inputs_ = arena("inputs and tables");
  workspace_ = arena("workspace");
  ctx_.device = options_.device;
  ctx_.workspace = workspace_;

  DT_CHECK_USAGE(options_.zero_stage == 1 || options_.zero_stage == 2, "ZeRO stage {}: use 1 or 2",
                 options_.zero_stage);
  model_.parameters().set_bucket_elements(options_.bucket_elements);
  gradient_shards_.cut_buckets();
  freeze_and_count(config);
  plan_step();
  plan_ = plan_of(arenas_, options_.device);
  int64_t staging = 0;
  for (const Communicator* group : groups_of_ranks(options_.groups)) staging += group->planned_staging();
  plan_.add("exchange between ranks", staging);
}

TrainingEngine::~TrainingEngine() = default;

void TrainingEngine::initialize(uint64_t seed) {
  load(std::make_shared<DrawnValues>(seed, model_.config().initializer_range));
}

void TrainingEngine::load(std::shared_ptr<const ModelDirectory> directory) {
  load_weights(ctx_, std::move(directory), model_);
}

void TrainingEngine::load(std::shared_ptr<const ParameterSource> source) {
  model_.parameters().load(ctx_, std::move(source));
}

void TrainingEngine::refresh() {
  model_.parameters().refresh(ctx_);
}

void TrainingEngine::load_batch(const PackedBatch& batch, size_t slot) {
  const int64_t tokens = tokens_per_microbatch();
  DT_CHECK(batch.sequences == options_.sequences && batch.sequence_length == options_.seq_len,
           "expected a batch of {} sequences of {} tokens, found {} of {}", options_.sequences, options_.seq_len,
           batch.sequences, batch.sequence_length);
  auto& [layout, targets] = microbatches_[slot];
  const auto documents = static_cast<int64_t>(batch.document_offsets.size()) - 1;
  // A graph is captured for as many documents as there can be: behind the last one stand empty ones.
  const bool whole = ctx_.device.kind != DeviceKind::kCpu;
  layout.capacity.sequences = whole ? tokens : documents;
  layout.query_offset = document_offsets_[slot].rows(0, layout.capacity.sequences + 1);
  host_offsets_ = batch.document_offsets;
  host_offsets_.resize(layout.capacity.sequences + 1, batch.document_offsets.back());
  next_ids_.resize(tokens);
  next_targets_.resize(tokens);
  shift_targets(batch, next_ids_, next_targets_);
  uploads_.begin();
  const auto upload = [&](const Tensor& to, std::span<const int32_t> values) {
    uploads_.add(ctx_.compute, to, values);
  };
  upload(layout.token_ids, batch.tokens);
  upload(targets.targets, batch.targets);
  upload(layout.positions, batch.positions);
  upload(layout.query_offset, host_offsets_);
  upload(targets.next_ids, next_ids_);
  upload(targets.next_targets, next_targets_);
  uploads_.end(ctx_.compute);
}

StepState TrainingEngine::state() {
  StepState state;
  ctx_.compute.copy(&state, ctx_.state, sizeof state);
  ctx_.compute.synchronize();
  return state;
}

int64_t TrainingEngine::updates() {
  return state().out.updates;
}

void TrainingEngine::set_updates(int64_t updates) {
  StepState changed = state();
  changed.out.updates = updates;
  ctx_.compute.copy(ctx_.state, &changed, sizeof changed);
  ctx_.compute.synchronize();
}

// A kernel's fault shows where the host next asks the device for something: by then it may be at another part, or step.
template <typename Body>
void TrainingEngine::naming_step(int64_t step, const Body& body) const {
  try {
    body();
  } catch (const Error& error) {
    if (!ctx_.compute.failed()) throw;
    const auto [begun, part] = begun_.last();
    const int64_t failed = begun > 0 ? begun : step;
    const std::string where = begun > 0 ? fmt::format(", in {}", kPartNames[part]) : "";
    const std::string found =
        fmt::format("step {} failed on {}{}: {}", failed, device_name(ctx_.device), where, error.what());
    if (ctx_.check_finite) fail("{}", found);
    fail("{}; the same command with --replay-step {} repeats the step op by op, and names the op", found, failed);
  }
}

void TrainingEngine::begin_step(int64_t step, double learning_rate, int64_t target_tokens, int64_t microbatches) {
  const int waiting = runner_.schedule().microbatches;
  DT_CHECK(microbatches_loaded_ == 0 && microbatches % waiting == 0, "a step of {} microbatches for a schedule of {}",
           microbatches, waiting);
  StepInput& in = input_.in;
  in.step = step;
  in.learning_rate = learning_rate;
  in.target_scale = 1.0 / static_cast<double>(std::max<int64_t>(1, target_tokens));
  step_tokens_ = static_cast<double>(microbatches * tokens_per_microbatch() * ranks_in(options_.groups.data));
  in.token_scale = 1.0 / step_tokens_;
  const int64_t modules = model_.next_token_modules();
  in.mtp_scale = modules == 0 ? 0.0 : in.target_scale * options_.mtp_weight / static_cast<double>(modules);
  step_runs_ = microbatches / waiting;
  if (may_overflow_) queued_.push_back({in, step_tokens_, step_runs_, {}, {}});
  start_step();
}

void TrainingEngine::start_step() {
  ctx_.step = input_.in.step;
  naming_step(input_.in.step, [&] {
    if (ctx_.planning) return;
    uploads_.begin();
    uploads_.add(ctx_.compute, &ctx_.state->in, &input_.in, sizeof input_.in);
    uploads_.end(ctx_.compute);
  });
  run_part(kBegin);
  gradient_shards_.begin_step();
  microbatch_runs_ = 0;
}

// The first time a part runs op by op: what is made once (tables, libraries, machine code) is made then. The second
// time it is captured. So it is where somebody looks at each op, or keeps routes.
void TrainingEngine::run_part(StepPart part) {
  naming_step(input_.in.step, [&] { run_or_replay(part); });
}

void TrainingEngine::run_or_replay(StepPart part) {
  CapturedPart& captured = parts_[part];
  const bool by_ops = ctx_.device.kind == DeviceKind::kCpu || ctx_.planning || ctx_.check_finite ||
                      ctx_.profile != nullptr || routes_ != nullptr || !options_.graphs ||
                      !model_.can_be_captured(tokens_per_microbatch());
  if (by_ops || !std::exchange(captured.run_before, true)) return run_ops(part, /*experts_in_slices=*/false);
  std::deque<Parameter>& parameters = model_.parameters().all();
  if (captured.graph == nullptr) {
    auto graph = std::make_unique<CapturedGraph>(ctx_.compute, [this, part] { run_ops(part, false); });
    graph->run();
    captured.graph = std::move(graph);
    for (const Parameter& p : parameters) captured.gradients_written.push_back(p.gradient_written);
  } else {
    captured.graph->run();
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i].gradient_written = captured.gradients_written[i];
    if (part != kBegin && part != kEnd) gradient_shards_.replayed_microbatches(is_last(part));
  }
  if (ranks_in(options_.groups.world) > 1) options_.groups.world->queued_graph(ctx_);
}

void TrainingEngine::run_ops(StepPart part, bool experts_in_slices) {
  if (!ctx_.planning) begun_.begin(ctx_.compute, part, &ctx_.state->in.step);
  switch (part) {
    case kBegin:
      begin_step_output(ctx_);
      statistics_.reset(ctx_);
      return model_.begin_step(ctx_);
    case kEnd:
      return apply_step();
    default:
      gradient_shards_.begin_microbatches(ctx_, is_last(part));
      runner_.run(ctx_, std::span(microbatches_).first(runner_.schedule().microbatches), &statistics_, routes_,
                  experts_in_slices, &gradient_shards_);
      return gradient_shards_.end_microbatches(ctx_);
  }
}

void TrainingEngine::add_microbatch(const PackedBatch& batch) {
  if (may_overflow_) {
    queued_.back().batches.push_back(batch);
    queued_.back().routes.push_back(routes_);
  }
  naming_step(input_.in.step, [&] { load_batch(batch, microbatches_loaded_++); });
  run_microbatches(/*experts_in_slices=*/false);
}

// Which one the next is. Where ranks add gradients up beside the last one's backward, that is one by itself.
TrainingEngine::StepPart TrainingEngine::microbatch_part() const {
  const bool last = microbatch_runs_ + 1 == step_runs_ && ranks_in(options_.groups.data) > 1 && !ctx_.planning;
  if (microbatch_runs_ == 0) return last ? kOnlyMicrobatch : kFirstMicrobatch;
  return last ? kLastMicrobatch : kLaterMicrobatch;
}

// As soon as the schedule has all that it is over.
void TrainingEngine::run_microbatches(bool experts_in_slices) {
  const auto wanted = static_cast<size_t>(runner_.schedule().microbatches);
  if (microbatches_loaded_ < wanted) return;
  microbatches_loaded_ = 0;
  const StepPart part = microbatch_part();
  ++microbatch_runs_;
  if (!experts_in_slices) return run_part(part);
  naming_step(input_.in.step, [&] { run_ops(part, true); });  // as many slices as the rows make: not captured
}

// All steps without a report: the first, whose rows overflowed, in slices; nothing of them has been applied.
void TrainingEngine::run_again() {
  DT_CHECK(microbatches_loaded_ == 0, "a step whose rows overflowed is run again between steps, not within one");
  while (!reports_.empty()) {
    spare_reports_.push_back(std::move(reports_.front()));
    reports_.pop_front();
  }
  StepState halted = state();
  halted.out.halt = 0;
  ctx_.compute.copy(ctx_.state, &halted, sizeof halted);
  RouteRecord* const routes = routes_;
  for (const QueuedStep& step : queued_) {
    input_.in = step.in;
    step_tokens_ = step.tokens;
    step_runs_ = step.runs;
    start_step();
    for (size_t i = 0; i < step.batches.size(); ++i) {
      routes_ = step.routes[i];
      load_batch(step.batches[i], microbatches_loaded_++);
      run_microbatches(/*experts_in_slices=*/&step == &queued_.front());
    }
    end_step();
  }
  routes_ = routes;
}

void TrainingEngine::end_step() {
  run_part(kEnd);
  if (!ctx_.planning) queue_report();
}

void TrainingEngine::apply_step() {
  model_.end_step(ctx_);
  ParameterList& list = model_.parameters();
  if (shared_table_ != nullptr) runner_.add_up_shared(ctx_, shared_table_->gradient);
  gradient_shards_.end_step(ctx_);
  decide_step();
  // A bucket's new values are brought to all ranks beside the update of the next ones.
  bool on_their_way = false;
  optimizer_.update(ctx_, list, [&](const ParameterBucket& bucket) {
    on_their_way |= shards_.gather_values(ctx_, bucket, list, /*exact=*/false);
  });
  if (on_their_way) end_exchange(ctx_);
  for (const auto& [layer, experts] : model_.expert_layers()) {
    const Parameter* bias = experts->router_bias();
    if (bias != nullptr && !bias->frozen) {
      update_router_bias(ctx_, bias->value, statistics_.expert_load(layer), options_.router_bias_update_speed);
    }
    statistics_.summarise(ctx_, layer, bias == nullptr ? Tensor() : bias->value);
  }
  add_up_stages(statistics_.load_summaries());
  // Where the step was not valid, the weights are as they were, and so is what is prepared from them.
  list.refresh(ctx_, [&](const Parameter& parameter) { return optimizer_.writes_rows_of(list, parameter); });
}

void TrainingEngine::complete_values() {
  if (options_.groups.value_memory == nullptr) return;
  const ParameterList& list = model_.parameters();
  for (const ParameterBucket& bucket : list.buckets()) shards_.gather_values(ctx_, bucket, list, /*exact=*/true);
  end_exchange(ctx_);
  ctx_.compute.synchronize();
}

// From what all ranks have, so that all decide alike.
void TrainingEngine::decide_step() {
  ArenaScope workspace(*workspace_);
  const Tensor sums = workspace.take(DType::kF64, {square_sum_count_, kSquareBlocks});
  shards_.square_sums(ctx_, sums, model_.parameters(), square_sum_rows_);
  if (ranks_in(options_.groups.world) > 1) add_up_ranks();
  finish_gradient(ctx_, sums, options_.max_norm, options_.halt_not_finite);
}

// What other stages have left out is zero, and adding zeros changes no bits.
void TrainingEngine::add_up_ranks() {
  Communicator& world = *options_.groups.world;
  StepOutput& out = ctx_.state->out;  // an address on the device
  static_assert(offsetof(StepOutput, mtp_loss_sum) == offsetof(StepOutput, loss_sum) + sizeof(double));
  ExchangeScope exchange(ctx_);
  world.all_reduce(ctx_, Tensor(&out.loss_sum, DType::kF64, {2}, ctx_.device));
  world.all_reduce(ctx_, Tensor(&out.row_overflow, DType::kI32, {1}, ctx_.device));
  statistics_.add_up(ctx_, world, options_.groups.data);
}

// x = the sum over the pipeline's ranks, of which one has it and the others zeros.
void TrainingEngine::add_up_stages(const Tensor& x) {
  if (!options_.groups.pipelined()) return;
  ExchangeScope exchange(ctx_);
  options_.groups.pipeline->all_reduce(ctx_, x);
}

void TrainingEngine::queue_report() {
  if (spare_reports_.empty()) spare_reports_.push_back(std::make_unique<StepReport>(ctx_.device, statistics_.layers()));
  std::unique_ptr<StepReport> report = std::move(spare_reports_.back());
  spare_reports_.pop_back();
  report->input = input_.in;
  report->tokens = step_tokens_;
  for (const PeerMemory* memory : memories_of_ranks(options_.groups)) memory->queue_check(ctx_.compute);
  report->copy(ctx_.compute, &ctx_.state->out, statistics_);
  reports_.push_back(std::move(report));
}

std::optional<StepResult> TrainingEngine::due_report() {
  if (static_cast<int64_t>(reports_.size()) <= options_.report_lag) return std::nullopt;
  return read_report();
}

std::optional<StepResult> TrainingEngine::remaining_report() {
  if (reports_.empty()) return std::nullopt;
  return read_report();
}

StepResult TrainingEngine::finish_step() {
  DT_CHECK(options_.report_lag == 0, "finish_step reads a step's report at once, and report_lag is {}; use end_step",
           options_.report_lag);
  end_step();
  return ctx_.planning ? StepResult() : *due_report();
}

StepResult TrainingEngine::read_report() {
  const auto wait = [&] {
    naming_step(reports_.front()->input.step, [&] { reports_.front()->copied.synchronize(); });
    for (const PeerMemory* memory : memories_of_ranks(options_.groups)) memory->check();
  };
  wait();
  const bool overflowed = reports_.front()->output->row_overflow != 0;
  if (overflowed) {
    run_again();
    wait();
    DT_CHECK(reports_.front()->output->row_overflow == 0, "step {}: rows overflowed with the experts in slices too",
             reports_.front()->input.step);
  }
  std::unique_ptr<StepReport> report = std::move(reports_.front());
  reports_.pop_front();
  if (may_overflow_) queued_.pop_front();
  StepResult result = report->result(expert_layers_, model_.config().n_routed_experts, options_.auxiliary_weight);
  result.row_overflows = overflowed ? 1 : 0;
  spare_reports_.push_back(std::move(report));
  return result;
}

}  // namespace deeptitan

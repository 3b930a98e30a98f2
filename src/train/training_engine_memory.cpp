// The engine's memory: the step itself, run without kernels, plans it; what is planned is taken and filled in.
#include <algorithm>
#include <map>
#include <numeric>
#include <sstream>

#include <fmt/ranges.h>

#include "comm/rank_texts.h"
#include "core/error.h"
#include "model/moe/on_device_dispatcher.h"
#include "train/freeze.h"
#include "train/training_engine.h"

namespace deeptitan {

// A step and an evaluation without their kernels.
void TrainingEngine::plan_step() {
  ctx_.planning = true;
  take_memory();
  PackedBatch batch;
  batch.reset(options_.sequences, options_.seq_len);
  begin_step(1, 0.0, 1, runner_.schedule().microbatches);
  may_overflow_ = model_.rows_may_overflow(tokens_per_microbatch());
  const std::vector<Communicator*> groups = groups_of_ranks(options_.groups);
  const PeerMemory* memory = options_.groups.expert_memory;
  const auto sent = [&] {
    std::vector<int64_t> bytes;
    bytes.reserve(groups.size());
    for (const Communicator* group : groups) {
      const bool from_kernels = group == options_.groups.ep && memory != nullptr;
      bytes.push_back(group->planned_bytes() + (from_kernels ? memory->planned_bytes() : 0));
    }
    return bytes;
  };
  const std::vector<int64_t> at_begin = sent();
  std::vector<int64_t> after_microbatches;
  for (const bool experts_in_slices : {false, true}) {
    if (experts_in_slices && !may_overflow_) continue;
    microbatches_loaded_ = microbatches_.size();
    run_microbatches(experts_in_slices);
    if (!experts_in_slices) after_microbatches = sent();
  }
  const std::vector<int64_t> before_end = sent();
  end_step();
  const std::vector<int64_t> at_end = sent();
  for (size_t g = 0; g < groups.size(); ++g) {
    exchanges_.push_back({.group = groups[g]->name(),
                          .ranks = groups[g]->size(),
                          .microbatch_bytes = (after_microbatches[g] - at_begin[g]) / runner_.schedule().microbatches,
                          .step_bytes = at_end[g] - before_end[g]});
  }
  evaluate(batch);
  ctx_.planning = false;
}

// What is frozen, and in which order the squares of gradients are added, is a matter of the whole model, so that all
// ranks decide alike whichever stages they hold.
void TrainingEngine::freeze_and_count(const ModelConfig& config) {
  ParameterList& here = model_.parameters();
  ParameterList& whole = model_.whole().parameters();
  freeze_parameters(whole, options_.freeze);
  std::map<std::string, int64_t> row_of;
  for (const Parameter& p : whole.all()) {
    if (p.residency == Residency::kTrained) row_of.emplace(p.spec.name, square_sum_count_++);
    Parameter* mine = p.frozen && &here != &whole ? here.find(p.spec.name) : nullptr;
    if (mine != nullptr) here.freeze(*mine);
  }
  for (const auto& [layer, experts] : model_.whole().expert_layers()) expert_layers_.push_back(layer);
  const Parameter* table = model_.embedding_table();
  const bool two_tables = runner_.ends_apart() && (config.tie_word_embeddings || model_.next_token_modules() > 0);
  shared_table_ =
      two_tables && table != nullptr && table->residency == Residency::kTrained ? model_.embedding_table() : nullptr;
  for (const Parameter& p : here.all()) {
    if (p.residency != Residency::kTrained) continue;
    // The first stage answers for what the last holds too.
    square_sum_rows_.push_back(&p == shared_table_ && runner_.holds_head() ? -1 : row_of.at(p.spec.name));
  }
}

void TrainingEngine::take_memory() {
  const int64_t tokens = tokens_per_microbatch();
  ParameterList& list = model_.parameters();
  list.plan_values(*parameters_);
  gradient_shards_.plan(*gradients_);
  list.plan_prepared(*prepared_);
  model_.plan_constants(*inputs_);
  model_.plan_statistics(statistics_, *inputs_);
  state_ = inputs_->take(DType::kU8, {sizeof(StepState)});
  ctx_.state = static_cast<StepState*>(state_.raw());
  loss_sums_ = inputs_->take(DType::kF64, {ranks_in(options_.groups.data)});
  optimizer_.plan(list, shards_, *optimizer_memory_);
  runner_.plan({*activations_, *activation_gradients_, recomputed_}, tokens);
  sample_logits_ = inputs_->take(DType::kF32, {1, model_.config().vocab_size});
  sequence_offset_ = inputs_->take(DType::kI32, {options_.sequences + 1});
  // A validation in the middle of a step leaves the microbatches alone that wait for their schedule.
  const int waiting = runner_.schedule().microbatches;
  microbatches_.clear();
  document_offsets_.clear();
  for (int i = 0; i < (waiting > 1 ? waiting + 1 : 1); ++i) {
    auto& [layout, targets] = microbatches_.emplace_back();
    for (Tensor* t : {&layout.token_ids, &targets.targets, &layout.positions, &targets.next_ids, &targets.next_targets})
      *t = inputs_->take(DType::kI32, {tokens});
    document_offsets_.push_back(inputs_->take(DType::kI32, {tokens + 1}));
    // As many documents as tokens, none longer than a row of the batch.
    layout.capacity = {
        .tokens = tokens, .sequences = tokens, .max_query = options_.seq_len, .max_visible = options_.seq_len};
    layout.longest_position = options_.seq_len;
    layout.query_offset = document_offsets_.back();
    layout.balance_offset = sequence_offset_;
  }
}

void TrainingEngine::allocate() {
  use_device(options_.device);
  ctx_.compute = Stream(options_.device);
  ctx_.communication = Stream(options_.device, StreamPriority::kUrgent);
  if (options_.groups.expert_memory != nullptr) adopt_expert_memory();
  PeerMemory* const values = options_.groups.value_memory;
  if (values != nullptr) {
    adopt(*values, {gradients_, parameters_});
  } else if (options_.groups.gradient_memory != nullptr) {
    adopt(*options_.groups.gradient_memory, {gradients_});
  }
  for (const auto& arena : arenas_) {
    if (!arena->allocated()) arena->allocate();
  }
  take_memory();
  // Five tables of a batch, its documents, and what each is aligned by.
  const int64_t table = (tokens_per_microbatch() + 1) * static_cast<int64_t>(sizeof(int32_t)) + 64;
  uploads_ = UploadRing(options_.device, 6 * table + static_cast<int64_t>(sizeof(StepInput)), kUploadsOnTheirWay);
  begun_ = BegunParts(options_.device, kStepParts);
  for (int i = 0; i <= options_.report_lag; ++i) {
    spare_reports_.push_back(std::make_unique<StepReport>(ctx_.device, statistics_.layers()));
  }
  std::vector<int32_t> offsets;
  for (int64_t s = 0; s <= options_.sequences; ++s) offsets.push_back(static_cast<int32_t>(s * options_.seq_len));
  upload<int32_t>(sequence_offset_, offsets);
}

// What lies between dispatch and combine, in memory that the kernels of all ranks reach. The workspace comes last: what
// else it is used for may differ between ranks, and of that the largest counts.
void TrainingEngine::adopt_expert_memory() {
  std::vector<Arena*> arenas = {activations_, activation_gradients_};
  if (recomputed_ != nullptr) arenas.push_back(recomputed_);
  arenas.push_back(workspace_);
  adopt(*options_.groups.expert_memory, arenas);
}

// The arenas' memory from what other ranks' kernels reach too; of what ranks of one stage need, the largest counts, so
// that everything lies at the same place on all of them.
void TrainingEngine::adopt(PeerMemory& memory, const std::vector<Arena*>& arenas) {
  std::vector<int64_t> bytes;
  bytes.reserve(arenas.size());
  for (const Arena* arena : arenas) bytes.push_back(arena->peak());
  Communicator& host = *options_.groups.host;
  const int64_t mine = rank_in(options_.groups.pipeline);
  for (const std::string& text : gather_texts(host, fmt::format("{} {}", mine, fmt::join(bytes, " ")))) {
    std::istringstream theirs(text);
    int64_t stage_rank = 0;
    theirs >> stage_rank;
    for (int64_t& most : bytes) {
      int64_t found = 0;
      theirs >> found;
      if (stage_rank == mine) most = std::max(most, found);
    }
  }
  const int64_t alignment = memory_alignment(options_.device);
  for (int64_t& each : bytes) each = (each + alignment - 1) / alignment * alignment;
  memory.allocate(std::accumulate(bytes.begin(), bytes.end(), int64_t{0}));
  char* next = memory.data();
  for (size_t i = 0; i < arenas.size(); ++i) {
    arenas[i]->adopt(next, bytes[i]);
    next += bytes[i];
  }
}

}  // namespace deeptitan

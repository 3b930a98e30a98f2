#include "generate/batch_executor.h"

#include <algorithm>
#include <utility>

#include "checkpoint/model_directory.h"
#include "comm/exchange_scope.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/transfer.h"
#include "generate/inference_weights.h"
#include "model/deepseek/checkpoint.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "model/moe/gather_dispatcher.h"
#include "ops/elementwise.h"
#include "ops/sampling.h"

namespace deeptitan {
namespace {

Stage stage_here(const ModelConfig& config, const RunnerOptions& o) {
  return o.ranks == nullptr ? split_into_stages(config.num_hidden_layers, 1).front()
                            : o.ranks->stage(config.num_hidden_layers);
}

// Where GPUs share experts out, batches of at most so many tokens are exchanged without counts on the host, and
// captured.
constexpr int64_t kMostTokensWithoutCounts = 256;

ModelOptions model_options(const ModelConfig& config, const RunnerOptions& o, const Stage& stage) {
  ModelOptions options = {.training = false, .compute = o.compute, .max_positions = o.context_length};
  options.expert_products = o.experts;
  if (o.ranks == nullptr) return options;
  if (o.ranks->pipeline() != nullptr) options.stages = {stage};
  if (Communicator* ep = o.ranks->ep()) {
    options.experts = experts_of_rank(config.n_routed_experts, *ep);
    // Rows of an odd number of bf16 are no whole words.
    const bool few = o.device.kind != DeviceKind::kCpu && config.hidden_size % 2 == 0;
    options.make_dispatcher = make_gather_dispatcher(*ep, few ? kMostTokensWithoutCounts : 0);
  }
  return options;
}

// Sets of uploads that can be on their way, and what aligns a set's tables.
constexpr int kUploadsOnTheirWay = 2;
constexpr int64_t kTableAlignment = 8 * 16;

// Batches that are kept as graphs: beyond these, sequences come and go too fast for one to be worth its memory.
constexpr size_t kMostGraphs = 64;
constexpr size_t kMostPromptGraphs = 8;

}  // namespace

BatchExecutor::BatchExecutor(const ModelConfig& config, const RunnerOptions& options)
    : options_(options), stage_(stage_here(config, options)), model_(config, model_options(config, options, stage_)) {
  const auto arena = [&](const char* name) {
    arenas_.push_back(std::make_unique<Arena>(name, options_.device));
    return arenas_.back().get();
  };
  parameters_ = arena("parameters");
  prepared_ = arena("prepared weights");
  cache_ = arena("latent cache");
  inputs_ = arena("inputs and tables");
  workspace_ = arena("workspace");
  ctx_.device = options_.device;
  ctx_.workspace = workspace_;
  // What ranks say of one that does not come names the batch.
  if (options_.ranks != nullptr && options_.device.kind == DeviceKind::kCpu) ctx_.state = &options_.ranks->state();

  ctx_.planning = true;
  take_memory();
  const BatchLayout largest = lay_out({.tokens = options_.batch_tokens,
                                       .sequences = options_.sequences,
                                       .max_query = options_.prefill_chunk,
                                       .max_visible = options_.context_length,
                                       .pages = page_table_.size(1)},
                                      options_.context_length);
  forward(largest);
  forward_logprobs(largest, options_.batch_tokens);
  if (gets_results()) choose_tokens(ctx_, chosen_, logits_, choices_, allowed_, earlier_);
  model_.parameters().plan_preparing(ctx_);
  ctx_.planning = false;
  plan_ = plan_of(arenas_, options_.device);
}

// Of a batch that has failed others' messages are left, for which the device would wait as its memory is given back.
BatchExecutor::~BatchExecutor() {
  if (options_.ranks != nullptr && options_.ranks->lost()) options_.ranks->abandon();
}

void BatchExecutor::take_memory() {
  ParameterList& list = model_.parameters();
  list.plan_values(*parameters_);
  list.plan_prepared(*prepared_);
  model_.plan_constants(*inputs_);
  layer_cache_.clear();
  for (const std::vector<CacheStream>& streams : model_.cache_streams()) {
    LayerCache layer;
    for (const CacheStream& stream : streams) {
      layer.push_back(cache_->take(options_.compute, {options_.pages, options_.page_size, stream.width}));
    }
    layer_cache_.push_back(std::move(layer));
  }
  for (Tensor* t : {&token_ids_, &positions_, &cache_slot_, &scored_rows_, &targets_, &likeliest_}) {
    *t = inputs_->take(DType::kI32, {options_.batch_tokens});
  }
  logprobs_ = inputs_->take(DType::kF32, {options_.batch_tokens});
  query_offset_ = inputs_->take(DType::kI32, {options_.sequences + 1});
  cached_length_ = inputs_->take(DType::kI32, {options_.sequences});
  logit_rows_ = inputs_->take(DType::kI32, {options_.sequences});
  const int64_t table_pages = (options_.context_length + options_.page_size - 1) / options_.page_size;
  page_table_ = inputs_->take(DType::kI32, {options_.sequences, table_pages});
  if (gives_results() || gets_results())
    logits_ = inputs_->take(DType::kF32, {options_.sequences, config().vocab_size});
  if (!gets_results()) return;
  choices_ = inputs_->take(DType::kI32, {options_.sequences, kChoiceWords});
  chosen_ = inputs_->take(DType::kI32, {options_.sequences});
  allowed_ = inputs_->take(DType::kI32, {choice_words(config().vocab_size)});
  earlier_ = inputs_->take(DType::kI32, {options_.sequences, choice_words(config().vocab_size)});
}

void BatchExecutor::allocate() {
  use_device(options_.device);
  ctx_.compute = Stream(options_.device);
  ctx_.communication = Stream(options_.device);
  for (const auto& arena : arenas_) arena->allocate();
  take_memory();
  const int64_t tables = std::max((4 * options_.batch_tokens + 3 * options_.sequences + page_table_.numel() + 1) * 4,
                                  choices_.bytes() + earlier_.bytes());
  uploads_ = UploadRing(options_.device, tables + kTableAlignment, kUploadsOnTheirWay);
  if (gets_results()) {
    host_logits_ = MemoryBlock("logits", options_.device, MemoryKind::kPinned, logits_.bytes());
    host_chosen_ = MemoryBlock("chosen tokens", options_.device, MemoryKind::kPinned, chosen_.bytes());
  }
}

void BatchExecutor::load(const ModelDirectory& directory) {
  // Only models in training keep it.
  load_weights(ctx_, std::shared_ptr<const ModelDirectory>(std::shared_ptr<void>(), &directory), model_);
}

void BatchExecutor::load(const DeepseekModel& trained) {
  copy_weights(ctx_, trained, model_);
}

void BatchExecutor::initialize(uint64_t seed) {
  model_.parameters().load(ctx_, std::make_shared<DrawnValues>(seed, model_.config().initializer_range));
}

BatchLayout BatchExecutor::lay_out(const BatchCapacity& capacity, int64_t longest_position) const {
  BatchLayout batch;
  batch.capacity = capacity;
  batch.longest_position = longest_position;
  batch.token_ids = token_ids_.rows(0, capacity.tokens);
  batch.positions = positions_.rows(0, capacity.tokens);
  batch.query_offset = query_offset_.rows(0, capacity.sequences + 1);
  batch.cached_length = cached_length_.rows(0, capacity.sequences);
  batch.page_table = page_table_.rows(0, capacity.sequences);
  batch.cache_slot = cache_slot_.rows(0, capacity.tokens);
  batch.logit_rows = logit_rows_.rows(0, capacity.sequences);
  return batch;
}

void BatchExecutor::copy_page(const BatchTables::PageCopy& page) {
  for (const LayerCache& layer : layer_cache_) {
    for (const Tensor& stream : layer) {
      copy(ctx_, stream.rows(page.to, page.to + 1), stream.rows(page.from, page.from + 1));
    }
  }
}

BatchLayout BatchExecutor::upload(const BatchTables& tables) {
  for (const BatchTables::PageCopy& page : tables.page_copies) copy_page(page);
  BatchCapacity capacity = tables.capacity(page_table_.size(1));
  // What a graph is captured for does not grow with the sequences.
  if (options_.device.kind != DeviceKind::kCpu) capacity.max_visible = options_.context_length;
  const BatchLayout batch = lay_out(capacity, std::min(tables.longest, options_.context_length));
  uploads_.begin();
  const auto upload = [&](const Tensor& to, std::span<const int32_t> values) {
    uploads_.add(ctx_.compute, to, values);
  };
  upload(batch.token_ids, tables.token_ids);
  upload(batch.positions, tables.positions);
  upload(batch.cache_slot, tables.cache_slot);
  upload(batch.query_offset, tables.query_offset);
  upload(batch.cached_length, tables.cached_length);
  upload(batch.page_table, tables.page_table(capacity.pages));
  upload(batch.logit_rows, tables.last_rows());
  uploads_.end(ctx_.compute);
  const int64_t scored = std::ssize(tables.targets);
  if (scored == 0) return batch;
  uploads_.begin();
  upload(scored_rows_.rows(0, scored), tables.scored_rows);
  upload(targets_.rows(0, scored), tables.targets);
  uploads_.end(ctx_.compute);
  return batch;
}

// [tokens, hidden] behind the stage that lies here, in workspace that the caller gives back.
Tensor BatchExecutor::forward_hidden(const BatchLayout& batch) {
  const auto take = [&] { return workspace_->take(options_.compute, {batch.tokens(), config().hidden_size}); };
  const Tensor hidden = take();
  Tensor before;
  if (!stage_.embedding) {
    before = take();
    Communicator& pipeline = *options_.ranks->pipeline();
    const ExchangeScope exchange(ctx_);
    pipeline.receive(ctx_, before, pipeline.rank() - 1);
  }
  model_.forward_stage(ctx_, ForwardContext{.batch = batch, .cache = layer_cache_}, stage_, hidden, before);
  if (!stage_.head) {
    Communicator& pipeline = *options_.ranks->pipeline();
    const ExchangeScope exchange(ctx_);
    pipeline.send(ctx_, hidden, pipeline.rank() + 1);
    pipeline.finish_send(ctx_, hidden);
  }
  return hidden;
}

// Brings a result of the last stage to the first rank.
void BatchExecutor::hand_over(const Tensor& result) {
  Communicator* const pipeline = options_.ranks == nullptr ? nullptr : options_.ranks->pipeline();
  if (pipeline == nullptr) return;
  const ExchangeScope exchange(ctx_);
  if (gives_results()) {
    pipeline->send(ctx_, result, 0);
    pipeline->finish_send(ctx_, result);
  } else if (gets_results()) {
    pipeline->receive(ctx_, result, pipeline->size() - 1);
  }
}

void BatchExecutor::forward(const BatchLayout& batch) {
  const ArenaScope workspace(*workspace_);
  const Tensor hidden = forward_hidden(batch);
  const int64_t wanted = batch.logit_rows.size(0);
  if (gives_results()) {
    const Tensor last = workspace_->take(options_.compute, {wanted, config().hidden_size});
    embedding(ctx_, last, hidden, batch.logit_rows);
    model_.head().logits(ctx_, logits_.rows(0, wanted), last);
  }
  if (gives_results() || gets_results()) hand_over(logits_.rows(0, wanted));
}

// Of the first `scored` of scored_rows_ and targets_.
void BatchExecutor::forward_logprobs(const BatchLayout& batch, int64_t scored) {
  const ArenaScope workspace(*workspace_);
  const Tensor hidden = forward_hidden(batch);
  if (scored == 0) return;
  if (gives_results()) {
    const Tensor wanted = workspace_->take(options_.compute, {scored, config().hidden_size});
    embedding(ctx_, wanted, hidden, scored_rows_.rows(0, scored));
    model_.head().logprobs(ctx_, logprobs_.rows(0, scored), likeliest_.rows(0, scored), wanted,
                           targets_.rows(0, scored));
  }
  hand_over(logprobs_.rows(0, scored));
  hand_over(likeliest_.rows(0, scored));
}

// The graph of a batch that has run before, or a place for it: nullptr where there is none.
BatchExecutor::BatchGraph* BatchExecutor::graph_of(const BatchCapacity& capacity, bool* known) {
  const bool prompts = capacity.max_query > 1;
  std::vector<BatchGraph>& graphs = prompts ? prompt_graphs_ : decode_graphs_;
  const auto found =
      std::find_if(graphs.begin(), graphs.end(), [&](const BatchGraph& of) { return of.capacity == capacity; });
  *known = found != graphs.end();
  if (*known) {
    // Prompts' lengths are many: those that came last stay.
    if (prompts) std::rotate(found, found + 1, graphs.end());
    return prompts ? &graphs.back() : &*found;
  }
  if (prompts && graphs.size() == kMostPromptGraphs) graphs.erase(graphs.begin());
  if (graphs.size() == kMostGraphs) return nullptr;
  graphs.push_back({capacity, nullptr});
  return &graphs.back();
}

// Op by op the first time, then as a graph. Dynamic rotary tables follow the length.
void BatchExecutor::run_batch(const BatchLayout& batch) {
  const bool by_ops = options_.device.kind == DeviceKind::kCpu || !options_.graphs || ctx_.check_finite ||
                      ctx_.profile != nullptr || config().rope.kind == RopeKind::kDynamic ||
                      (options_.ranks != nullptr && options_.ranks->pipeline() != nullptr) ||
                      !model_.can_be_captured(batch.tokens()) ||
                      !grouped_gemm_can_be_captured(options_.experts.value_or(GroupedGemmStrategy::kBf16));
  if (by_ops) return forward(batch);
  bool known = false;
  BatchGraph* const found = graph_of(batch.capacity, &known);
  if (found == nullptr || !known) return forward(batch);
  if (found->graph == nullptr) {
    found->graph = std::make_unique<CapturedGraph>(ctx_.compute, [this, batch] { forward(batch); });
  }
  found->graph->run();
  Communicator* const ep = options_.ranks == nullptr ? nullptr : options_.ranks->ep();
  if (ep != nullptr) ep->queued_graph(ctx_);
}

void BatchExecutor::run(const BatchTables& tables) {
  RunnerRanks* const ranks = options_.ranks;
  if (ranks != nullptr) ctx_.step = ranks->state().in.step;
  ctx_.check_finite = tables.check_finite;
  // A rank that stopped in the midst of a batch would let the others wait.
  if (ranks != nullptr && tables.check_finite) ctx_.not_finite = &(not_finite_ = {});
  const BatchLayout batch = upload(tables);
  if (tables.scores) {
    forward_logprobs(batch, std::ssize(tables.targets));
  } else {
    run_batch(batch);
  }
  const bool report = std::exchange(ctx_.not_finite, nullptr) != nullptr;
  if (report) report_not_finite();
  if (ranks != nullptr) ranks->end_batch();
}

void BatchExecutor::run_and_share(BatchTables& tables) {
  tables.check_finite = check_finite_;
  if (RunnerRanks* const ranks = options_.ranks) {
    ranks->begin_batch();
    ranks->tell(RunnerRanks::Command::kBatch, to_words(tables));
  }
  run(tables);
}

// Ranks run stage after stage, and those of one stage the same ops: the first op of the first stage.
void BatchExecutor::report_not_finite() {
  const std::vector<FirstNotFinite> all = gather_not_finite(*options_.ranks, not_finite_);
  if (!gets_results()) return;
  const Mesh& mesh = options_.ranks->mesh();
  const FirstNotFinite* first = nullptr;
  for (int stage = 0; stage < mesh.pp && first == nullptr; ++stage) {
    for (int e = 0; e < mesh.ep; ++e) {
      const FirstNotFinite& found = all[stage * mesh.ep + e];
      if (found.place >= 0 && (first == nullptr || found.place < first->place)) first = &found;
    }
  }
  options_.ranks->end_batch();
  if (first != nullptr) fail("{}", first->what);
}

std::span<const float> BatchExecutor::logits(BatchTables& tables) {
  tables.scores = false;
  run_and_share(tables);
  bring_logits(0, tables.sequences());
  ctx_.compute.synchronize();
  return {reinterpret_cast<const float*>(host_logits_.data()),
          static_cast<size_t>(tables.sequences() * config().vocab_size)};
}

// Without waiting for them.
void BatchExecutor::bring_logits(int64_t first, int64_t end) {
  const Tensor wanted = logits_.rows(first, end);
  ctx_.compute.copy(host_logits_.data() + first * config().vocab_size * static_cast<int64_t>(sizeof(float)),
                    wanted.raw(), wanted.bytes());
}

std::span<const float> BatchExecutor::logits_of(int64_t sequence) const {
  const auto vocab = static_cast<size_t>(config().vocab_size);
  return {reinterpret_cast<const float*>(host_logits_.data()) + static_cast<size_t>(sequence) * vocab, vocab};
}

void BatchExecutor::allow(const std::vector<bool>& tokens) {
  const int64_t count = std::min(std::ssize(tokens), config().vocab_size);
  allowed_words_.assign(choice_words(config().vocab_size), 0);
  allowed_count_ = std::count(tokens.begin(), tokens.begin() + count, true);
  for (int64_t t = 0; t < count; ++t) allowed_words_[t / 32] |= static_cast<uint32_t>(tokens[t] ? 1 : 0) << (t % 32);
  allowed_is_there_ = false;
}

// What the next tokens are chosen by; earlier tokens only where there is a penalty on them.
void BatchExecutor::upload_choices(std::span<const NextToken> next) {
  std::vector<TokenChoice> choices(next.size());
  size_t penalized = 0;  // up to the last that is
  for (size_t i = 0; i < next.size(); ++i) {
    if (!next[i].choice) continue;
    choices[i] = *next[i].choice;
    if (choices[i].top_k >= allowed_count_) choices[i].top_k = 0;
    if (choices[i].penalty != 1) penalized = i + 1;
  }
  uploads_.begin();
  uploads_.add(ctx_.compute, choices_.raw(), choices.data(), std::ssize(choices) * kChoiceWords * 4);
  if (penalized > 0) {
    const auto words = static_cast<size_t>(choice_words(config().vocab_size));
    earlier_words_.assign(penalized * words, 0);
    for (size_t i = 0; i < penalized; ++i) {
      std::copy_n(next[i].earlier.begin(), std::min(words, next[i].earlier.size()), &earlier_words_[i * words]);
    }
    uploads_.add(ctx_.compute, earlier_.raw(), earlier_words_.data(), std::ssize(earlier_words_) * 4);
  }
  uploads_.end(ctx_.compute);
}

void BatchExecutor::choose(BatchTables& tables, std::span<NextToken> next) {
  tables.scores = false;
  run_and_share(tables);
  const int64_t sequences = tables.sequences();
  const bool any = std::any_of(next.begin(), next.end(), [](const NextToken& n) { return n.choice.has_value(); });
  const auto wants_logits = [&](int64_t i) { return next[i].wanted && !next[i].choice; };
  for (int64_t first = 0, end = 0; first < sequences; first = end) {
    for (end = first + 1; end < sequences && wants_logits(end) == wants_logits(first);) ++end;
    if (wants_logits(first)) bring_logits(first, end);
  }
  if (any) {
    if (!allowed_is_there_) {
      if (allowed_words_.empty()) allow(std::vector<bool>(config().vocab_size, true));
      allowed_is_there_ = true;
      copy_tensor(allowed_, Tensor(allowed_words_.data(), DType::kI32, {std::ssize(allowed_words_)}));
    }
    upload_choices(next.first(sequences));
    const Tensor chosen = chosen_.rows(0, sequences);
    choose_tokens(ctx_, chosen, logits_.rows(0, sequences), choices_.rows(0, sequences), allowed_,
                  earlier_.rows(0, sequences));
    ctx_.compute.copy(host_chosen_.data(), chosen.raw(), chosen.bytes());
  }
  ctx_.compute.synchronize();
  bool failed = false;
  for (int64_t i = 0; i < sequences; ++i) {
    next[i].token = next[i].choice ? reinterpret_cast<const int32_t*>(host_chosen_.data())[i] : -1;
    if (!next[i].choice || next[i].token >= 0) continue;
    bring_logits(i, i + 1);  // for the caller to say what is wrong with them
    failed = true;
  }
  if (failed) ctx_.compute.synchronize();
}

void BatchExecutor::logprobs(BatchTables& tables, std::span<float> found, std::span<int32_t> likeliest) {
  tables.scores = true;
  run_and_share(tables);
  const int64_t scored = std::ssize(tables.targets);
  if (scored == 0) return;
  copy_tensor(Tensor(found.data(), DType::kF32, {scored}), logprobs_.rows(0, scored));
  copy_tensor(Tensor(likeliest.data(), DType::kI32, {scored}), likeliest_.rows(0, scored));
}

}  // namespace deeptitan

#include "generate/model_runner.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "config/dtype_words.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "core/transfer.h"
#include "generate/inference_weights.h"
#include "model/deepseek/checkpoint.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "model/moe/gather_dispatcher.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/moe.h"

namespace deeptitan {
namespace {

RunnerOptions complete(RunnerOptions options, const ModelConfig& config) {
  if (options.context_length == 0) options.context_length = config.max_position_embeddings;
  DT_CHECK_USAGE(0 < options.context_length && options.context_length <= config.max_position_embeddings,
                 "a context of {} tokens was asked for; the model's max_position_embeddings allows 1 to {}",
                 options.context_length, config.max_position_embeddings);
  DT_CHECK_USAGE(options.page_size > 0, "page_size = {}: a cache page holds at least one token", options.page_size);
  DT_CHECK_USAGE(options.sequences > 0, "sequences = {}: a batch holds at least one sequence", options.sequences);
  if (config.rope.kind == RopeKind::kDynamic) options.sequences = 1;
  options.prefill_chunk = std::clamp<int64_t>(options.prefill_chunk, 1, options.context_length);
  options.batch_tokens = std::max(options.batch_tokens, options.prefill_chunk + options.sequences - 1);
  const int64_t context_pages = (options.context_length + options.page_size - 1) / options.page_size;
  if (options.pages == 0) options.pages = options.sequences * context_pages;
  DT_CHECK_USAGE(options.pages >= context_pages,
                 "a cache of {} pages of {} tokens cannot hold one sequence of the context's {} tokens; it needs {}",
                 options.pages, options.page_size, options.context_length, context_pages);
  return options;
}

ModelOptions model_options(const ModelConfig& config, const RunnerOptions& o) {
  ModelOptions options = {.training = false, .compute = o.compute, .max_positions = o.context_length};
  if (o.ep != nullptr && o.ep->size() > 1) {
    options.experts = experts_of_rank(config.n_routed_experts, *o.ep);
    options.make_dispatcher = make_gather_dispatcher(*o.ep);
  }
  return options;
}

// Sets of uploads that can be on their way, and what aligns a set's tables.
constexpr int kUploadsOnTheirWay = 2;
constexpr int64_t kTableAlignment = 8 * 16;

// Batches that are kept as graphs: beyond these, sequences come and go too fast for one to be worth its memory.
constexpr size_t kMostGraphs = 64;

void check_in_vocabulary(int32_t id, int64_t vocab) {
  DT_CHECK(0 <= id && id < vocab, "token id {} is outside the model's vocabulary of {}", id, vocab);
}

}  // namespace

DType parse_compute_dtype(std::string_view word, Device device) {
  const std::string_view usual = usual_dtype_word(word);
  if (usual == "auto") return device.kind == DeviceKind::kCuda || bfloat16_is_native() ? DType::kBF16 : DType::kF32;
  if (usual == "bf16") return DType::kBF16;
  if (usual == "fp32") return DType::kF32;
  fail_usage("dtype = {}: use auto, bf16 or fp32", word);
}

ModelRunner::ModelRunner(const ModelConfig& config, const RunnerOptions& options)
    : options_(complete(options, config)), model_(config, model_options(config, options_)), pool_(options_.pages) {
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

  ctx_.planning = true;
  take_memory();
  const BatchLayout largest = lay_out({.tokens = batch_tokens(),
                                       .sequences = options_.sequences,
                                       .max_query = options_.prefill_chunk,
                                       .max_visible = options_.context_length,
                                       .pages = page_table_.size(1)},
                                      options_.context_length);
  forward(largest);
  forward_logprobs(largest, batch_tokens());
  ctx_.planning = false;
  plan_ = plan_of(arenas_);
}

ModelRunner::~ModelRunner() = default;

void ModelRunner::take_memory() {
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
    *t = inputs_->take(DType::kI32, {batch_tokens()});
  }
  logprobs_ = inputs_->take(DType::kF32, {batch_tokens()});
  query_offset_ = inputs_->take(DType::kI32, {options_.sequences + 1});
  cached_length_ = inputs_->take(DType::kI32, {options_.sequences});
  logit_rows_ = inputs_->take(DType::kI32, {options_.sequences});
  page_table_ = inputs_->take(DType::kI32, {options_.sequences, pages_for(options_.context_length)});
  logits_ = inputs_->take(DType::kF32, {options_.sequences, model_.head().vocab()});
}

void ModelRunner::allocate() {
  const int64_t available = available_memory(options_.device);
  if (plan_.total() > available) {
    fail_usage(
        "the model needs {} of memory and {} are available; its largest arenas are {}; a shorter context or bf16 "
        "needs less",
        format_bytes(plan_.total()), format_bytes(available), plan_.largest());
  }
  use_device(options_.device);
  ctx_.compute = Stream(options_.device);
  for (const auto& arena : arenas_) arena->allocate();
  take_memory();
  const int64_t tables = (4 * batch_tokens() + 3 * options_.sequences + page_table_.numel() + 1) * 4;
  uploads_ = UploadRing(options_.device, tables + kTableAlignment, kUploadsOnTheirWay);
  host_logits_ = MemoryBlock("logits", options_.device, MemoryKind::kPinned, logits_.bytes());
}

void ModelRunner::load(const ModelDirectory& directory) {
  // Only models in training keep it.
  load_weights(ctx_, std::shared_ptr<const ModelDirectory>(std::shared_ptr<void>(), &directory), model_);
}

void ModelRunner::load(const DeepseekModel& trained) {
  copy_weights(ctx_, trained, model_);
}

void ModelRunner::initialize(uint64_t seed) {
  model_.parameters().load(ctx_, std::make_shared<DrawnValues>(seed, model_.config().initializer_range));
}

BatchLayout ModelRunner::lay_out(const BatchCapacity& capacity, int64_t longest_position) const {
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

void ModelRunner::check_runnable(std::span<const Rows> rows) const {
  DT_CHECK(!rows.empty() && static_cast<int64_t>(rows.size()) <= batch_sequences(),
           "a batch of {} sequences; this runner was planned for 1 to {}", rows.size(), batch_sequences());
  int64_t tokens = 0;
  int64_t pages = 0;
  std::map<int32_t, int64_t> writers;  // of shared pages
  for (const auto& [sequence, count] : rows) {
    DT_CHECK(count > 0, "a forward needs at least one token, found none");
    DT_CHECK(count <= sequence->pending(), "{} tokens are to be run of a sequence with {} pending", count,
             sequence->pending());
    DT_CHECK(sequence->cached + count <= options_.context_length,
             "{} tokens do not fit behind the {} in a context of {}", count, sequence->cached, options_.context_length);
    DT_CHECK(count <= options_.prefill_chunk, "{} tokens of one sequence; a batch takes at most {} (prefill_chunk)",
             count, options_.prefill_chunk);
    for (int64_t i = 0; i < count; ++i)
      check_in_vocabulary(sequence->tokens[sequence->cached + i], config().vocab_size);
    tokens += count;
    pages += pages_for(sequence->cached + count) - static_cast<int64_t>(sequence->pages.size());
    // Of all that refer to a page, the last to write into it keeps it.
    if (writes_shared_page(*sequence)) {
      const int32_t page = last_page(*sequence);
      if (++writers[page] < pool_.references(page)) ++pages;
    }
  }
  DT_CHECK(tokens <= batch_tokens(), "a batch of {} tokens; this runner was planned for {}", tokens, batch_tokens());
  DT_CHECK(pages <= pool_.available(), "{} cache pages are wanted and {} of {} are free; run fewer sequences at once",
           pages, pool_.available(), pool_.pages());
}

BatchLayout ModelRunner::prepare(std::span<const Rows> rows) {
  check_runnable(rows);
  BatchCapacity capacity{.sequences = static_cast<int64_t>(rows.size()), .pages = page_table_.size(1)};
  std::vector<int32_t> ids, positions, slots, offsets = {0}, cached, last_rows;
  std::vector<int32_t> table(capacity.sequences * capacity.pages);
  int64_t longest = 0;
  for (size_t s = 0; s < rows.size(); ++s) {
    Sequence& sequence = *rows[s].sequence;
    const int64_t end = sequence.cached + rows[s].count;
    if (writes_shared_page(sequence)) own_last_page(sequence);
    while (static_cast<int64_t>(sequence.pages.size()) < pages_for(end)) sequence.pages.push_back(pool_.acquire());
    std::copy(sequence.pages.begin(), sequence.pages.end(), table.begin() + static_cast<int64_t>(s) * capacity.pages);
    cached.push_back(static_cast<int32_t>(sequence.cached));
    for (int64_t place = sequence.cached; place < end; ++place) {
      const int64_t page = sequence.pages[place / options_.page_size];
      ids.push_back(sequence.tokens[place]);
      positions.push_back(static_cast<int32_t>(place));
      slots.push_back(static_cast<int32_t>(page * options_.page_size + place % options_.page_size));
    }
    offsets.push_back(static_cast<int32_t>(ids.size()));
    last_rows.push_back(static_cast<int32_t>(ids.size()) - 1);
    capacity.max_query = std::max(capacity.max_query, rows[s].count);
    capacity.max_visible = std::max(capacity.max_visible, end);
    longest = std::max(longest, sequence.length());
  }
  capacity.tokens = std::ssize(ids);
  // What a graph is captured for does not grow with the sequences.
  if (options_.device.kind != DeviceKind::kCpu) capacity.max_visible = options_.context_length;
  const BatchLayout batch = lay_out(capacity, std::min(longest, options_.context_length));
  uploads_.begin();
  const auto upload = [&](const Tensor& to, std::span<const int32_t> values) {
    uploads_.add(ctx_.compute, to, values);
  };
  upload(batch.token_ids, ids);
  upload(batch.positions, positions);
  upload(batch.cache_slot, slots);
  upload(batch.query_offset, offsets);
  upload(batch.cached_length, cached);
  upload(batch.page_table, table);
  upload(batch.logit_rows, last_rows);
  uploads_.end(ctx_.compute);
  return batch;
}

// [tokens, hidden], in workspace that the caller gives back.
Tensor ModelRunner::forward_hidden(const BatchLayout& batch) {
  const Tensor hidden = workspace_->take(options_.compute, {batch.tokens(), config().hidden_size});
  model_.forward_hidden(ctx_, ForwardContext{.batch = batch, .cache = layer_cache_}, hidden);
  return hidden;
}

void ModelRunner::forward(const BatchLayout& batch) {
  const ArenaScope workspace(*workspace_);
  const Tensor hidden = forward_hidden(batch);
  const int64_t wanted = batch.logit_rows.size(0);
  const Tensor last = workspace_->take(options_.compute, {wanted, config().hidden_size});
  embedding(ctx_, last, hidden, batch.logit_rows);
  model_.head().logits(ctx_, logits_.rows(0, wanted), last);
}

// Of the first `scored` of scored_rows_ and targets_.
void ModelRunner::forward_logprobs(const BatchLayout& batch, int64_t scored) {
  const ArenaScope workspace(*workspace_);
  const Tensor hidden = forward_hidden(batch);
  if (scored == 0) return;
  const Tensor wanted = workspace_->take(options_.compute, {scored, config().hidden_size});
  embedding(ctx_, wanted, hidden, scored_rows_.rows(0, scored));
  model_.head().logprobs(ctx_, logprobs_.rows(0, scored), likeliest_.rows(0, scored), wanted, targets_.rows(0, scored));
}

// One token a sequence, op by op the first time, then as a graph. Dynamic rotary tables follow the length.
void ModelRunner::run_batch(const BatchLayout& batch) {
  const bool by_ops = options_.device.kind == DeviceKind::kCpu || !options_.graphs || batch.capacity.max_query > 1 ||
                      ctx_.check_finite || ctx_.profile != nullptr || config().rope.kind == RopeKind::kDynamic ||
                      !model_.can_be_captured();
  if (by_ops) return forward(batch);
  const auto found = std::find_if(decode_graphs_.begin(), decode_graphs_.end(),
                                  [&](const DecodeGraph& known) { return known.capacity == batch.capacity; });
  if (found == decode_graphs_.end()) {
    if (decode_graphs_.size() < kMostGraphs) decode_graphs_.push_back({batch.capacity, nullptr});
    return forward(batch);
  }
  std::unique_ptr<CapturedGraph>& graph = found->graph;
  if (graph == nullptr) {
    graph = std::make_unique<CapturedGraph>(ctx_.compute, [this, batch] { forward(batch); });
  }
  graph->run();
}

std::span<const float> ModelRunner::run(std::span<const Rows> rows) {
  run_batch(prepare(rows));
  for (const auto& [sequence, count] : rows) sequence->cached += count;
  const Tensor found = logits_.rows(0, std::ssize(rows));
  ctx_.compute.copy(host_logits_.data(), found.raw(), found.bytes());
  ctx_.compute.synchronize();
  return {reinterpret_cast<const float*>(host_logits_.data()), static_cast<size_t>(found.numel())};
}

void ModelRunner::score(std::span<const Rows> rows, std::span<const int32_t> targets, std::span<float> logprobs,
                        std::span<int32_t> likeliest) {
  size_t tokens = 0;
  for (const auto& [sequence, run] : rows) tokens += static_cast<size_t>(run);
  DT_CHECK(targets.size() == tokens && logprobs.size() == tokens && likeliest.size() == tokens,
           "score: {} tokens with {} targets and room for {} and {} results", tokens, targets.size(), logprobs.size(),
           likeliest.size());
  std::vector<Wanted> wanted;
  for (size_t row = 0; row < tokens; ++row) {
    if (targets[row] != -1) wanted.push_back({static_cast<int32_t>(row), targets[row]});
  }
  std::vector<float> found(wanted.size());
  std::vector<int32_t> found_likeliest(wanted.size());
  score(rows, wanted, found, found_likeliest);
  std::fill(logprobs.begin(), logprobs.end(), 0.0f);
  std::fill(likeliest.begin(), likeliest.end(), -1);
  for (size_t i = 0; i < wanted.size(); ++i) {
    logprobs[wanted[i].row] = found[i];
    likeliest[wanted[i].row] = found_likeliest[i];
  }
}

void ModelRunner::score(std::span<const Rows> rows, std::span<const Wanted> wanted, std::span<float> logprobs,
                        std::span<int32_t> likeliest) {
  check_runnable(rows);
  const auto scored = std::ssize(wanted);
  DT_CHECK(scored <= batch_tokens() && std::ssize(logprobs) == scored && std::ssize(likeliest) == scored,
           "score: {} followers with room for {} and {} results; a batch of this runner has at most {}", scored,
           logprobs.size(), likeliest.size(), batch_tokens());
  std::vector<int32_t> scored_rows, targets;
  for (const Wanted& follower : wanted) {
    check_in_vocabulary(follower.target, config().vocab_size);
    scored_rows.push_back(follower.row);
    targets.push_back(follower.target);
  }
  const BatchLayout batch = prepare(rows);
  if (scored > 0) {
    uploads_.begin();
    uploads_.add<int32_t>(ctx_.compute, scored_rows_.rows(0, scored), scored_rows);
    uploads_.add<int32_t>(ctx_.compute, targets_.rows(0, scored), targets);
    uploads_.end(ctx_.compute);
  }
  forward_logprobs(batch, scored);
  if (scored > 0) {
    copy_tensor(Tensor(logprobs.data(), DType::kF32, {scored}), logprobs_.rows(0, scored));
    copy_tensor(Tensor(likeliest.data(), DType::kI32, {scored}), likeliest_.rows(0, scored));
  }
  for (const auto& [sequence, run] : rows) sequence->cached += run;
}

void ModelRunner::truncate(Sequence& sequence, int64_t length) {
  DT_CHECK(0 <= length && length <= sequence.length(), "truncate to {}: the sequence holds {} tokens", length,
           sequence.length());
  sequence.tokens.resize(length);
  sequence.cached = std::min(sequence.cached, length);
  while (static_cast<int64_t>(sequence.pages.size()) > pages_for(sequence.cached)) {
    pool_.release(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

Sequence ModelRunner::fork(const Sequence& sequence) {
  for (const int32_t page : sequence.pages) pool_.share(page);
  return sequence;
}

// Whether the next entry would be written into a page that another sequence refers to as well.
bool ModelRunner::writes_shared_page(const Sequence& sequence) const {
  return sequence.cached % options_.page_size != 0 && pool_.references(last_page(sequence)) > 1;
}

// Where the next entry goes, if there is room.
int32_t ModelRunner::last_page(const Sequence& sequence) const {
  return sequence.pages[sequence.cached / options_.page_size];
}

void ModelRunner::own_last_page(Sequence& sequence) {
  int32_t& page = sequence.pages[sequence.cached / options_.page_size];
  const int32_t own = pool_.acquire();
  for (const LayerCache& layer : layer_cache_) {
    for (const Tensor& stream : layer) copy(ctx_, stream.rows(own, own + 1), stream.rows(page, page + 1));
  }
  pool_.release(page);
  page = own;
}

}  // namespace deeptitan

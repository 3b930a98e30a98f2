#include "generate/inference_engine.h"

#include <algorithm>
#include <cstring>
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
#include "ops/linear.h"

namespace deeptitan {
namespace {

InferenceOptions complete(InferenceOptions options, const ModelConfig& config) {
  if (options.context_length == 0) options.context_length = config.max_position_embeddings;
  DT_CHECK_USAGE(0 < options.context_length && options.context_length <= config.max_position_embeddings,
                 "a context of {} tokens was asked for; the model's max_position_embeddings allows 1 to {}",
                 options.context_length, config.max_position_embeddings);
  DT_CHECK_USAGE(options.page_size > 0, "page_size = {}: a cache page holds at least one token", options.page_size);
  options.prefill_chunk = std::clamp<int64_t>(options.prefill_chunk, 1, options.context_length);
  return options;
}

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

InferenceEngine::InferenceEngine(const ModelConfig& config, const InferenceOptions& options)
    : options_(complete(options, config)),
      model_(config, {.training = false, .compute = options_.compute, .max_positions = options_.context_length}) {
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
  const int64_t chunk = options_.prefill_chunk;
  const int64_t context = options_.context_length;
  // The largest that starts a sequence, and the largest that continues one.
  std::vector<BatchLayout> shapes = {lay_out(0, chunk, context)};
  if (context > 1) {
    const int64_t continued = std::min(chunk, context - 1);
    shapes.push_back(lay_out(context - continued, continued, context));
  }
  for (const BatchLayout& shape : shapes) {
    forward_last_logits(shape);
    forward_logprobs(shape, logprobs_.rows(0, shape.tokens), likeliest_.rows(0, shape.tokens),
                     targets_.rows(0, shape.tokens));
  }
  ctx_.planning = false;
  plan_ = plan_of(arenas_);
}

InferenceEngine::~InferenceEngine() = default;

void InferenceEngine::take_memory() {
  ParameterList& list = model_.parameters();
  list.plan_values(*parameters_);
  list.plan_prepared(*prepared_);
  model_.plan_constants(*inputs_);
  const int64_t pages = (options_.context_length + options_.page_size - 1) / options_.page_size;
  layer_cache_.clear();
  for (const std::vector<CacheStream>& streams : model_.cache_streams()) {
    LayerCache layer;
    for (const CacheStream& stream : streams) {
      layer.push_back(cache_->take(options_.compute, {pages, options_.page_size, stream.width}));
    }
    layer_cache_.push_back(std::move(layer));
  }
  const int64_t chunk = options_.prefill_chunk;
  for (Tensor* t : {&token_ids_, &positions_, &cache_slot_, &visible_, &targets_, &likeliest_}) {
    *t = inputs_->take(DType::kI32, {chunk});
  }
  page_table_ = inputs_->take(DType::kI32, {chunk, pages});
  document_offset_ = inputs_->take(DType::kI32, {2});
  logprobs_ = inputs_->take(DType::kF32, {chunk});
  logits_ = inputs_->take(DType::kF32, {1, model_.head().vocab()});
}

void InferenceEngine::allocate() {
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
  // One sequence owns all pages, in their order; its tokens see the same table.
  const int64_t pages = page_table_.size(1);
  std::vector<int32_t> table(page_table_.numel());
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(static_cast<int64_t>(i) % pages);
  upload<int32_t>(page_table_, table);
  host_logits_.resize(logits_.numel());
  tokens_.reserve(options_.context_length);
}

void InferenceEngine::load(const ModelDirectory& directory) {
  // Only models in training keep it.
  load_weights(ctx_, std::shared_ptr<const ModelDirectory>(std::shared_ptr<void>(), &directory), model_);
}

void InferenceEngine::load(const DeepseekModel& trained) {
  copy_weights(ctx_, trained, model_);
}

void InferenceEngine::initialize(uint64_t seed) {
  model_.parameters().load(ctx_, std::make_shared<DrawnValues>(seed, model_.config().initializer_range));
}

BatchLayout InferenceEngine::lay_out(int64_t first, int64_t count, int64_t sequence_length) const {
  BatchLayout batch;
  batch.tokens = count;
  batch.fresh_tokens = first == 0 ? count : 0;
  batch.longest_position = sequence_length;
  batch.token_ids = token_ids_.rows(0, count);
  batch.positions = positions_.rows(0, count);
  batch.documents = {document_offset_, count};
  batch.cache_slot = cache_slot_.rows(0, count);
  if (first > 0) batch.cached = {page_table_.rows(0, count), visible_.rows(0, count), first + count};
  return batch;
}

void InferenceEngine::fill_inputs(std::span<const int32_t> tokens, int64_t first) {
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> places(tokens.size()), visible(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    places[i] = static_cast<int32_t>(first + static_cast<int64_t>(i));
    visible[i] = places[i] + 1;
  }
  upload<int32_t>(token_ids_.rows(0, count), tokens);
  upload<int32_t>(positions_.rows(0, count), places);
  upload<int32_t>(cache_slot_.rows(0, count), places);
  upload<int32_t>(visible_.rows(0, count), visible);
  upload<int32_t>(document_offset_, std::vector<int32_t>{0, static_cast<int32_t>(count)});
}

void InferenceEngine::forward_last_logits(const BatchLayout& batch) {
  ArenaScope workspace(*workspace_);
  const Tensor hidden = workspace.take(options_.compute, {batch.tokens, config().hidden_size});
  model_.forward_hidden(ctx_, ForwardContext{.batch = batch, .cache = layer_cache_}, hidden);
  model_.head().logits(ctx_, logits_, hidden.rows(batch.tokens - 1, batch.tokens));
}

void InferenceEngine::forward_logprobs(const BatchLayout& batch, const Tensor& logprobs, const Tensor& likeliest,
                                       const Tensor& targets) {
  ArenaScope workspace(*workspace_);
  const Tensor hidden = workspace.take(options_.compute, {batch.tokens, config().hidden_size});
  model_.forward_hidden(ctx_, ForwardContext{.batch = batch, .cache = layer_cache_}, hidden);
  model_.head().logprobs(ctx_, logprobs, likeliest, hidden, targets);
}

void InferenceEngine::check_appendable(std::span<const int32_t> tokens) const {
  DT_CHECK(!tokens.empty(), "a forward needs at least one token, found none");
  DT_CHECK(length() + static_cast<int64_t>(tokens.size()) <= context_length(),
           "{} tokens do not fit behind the {} in a context of {}", tokens.size(), length(), context_length());
  for (const int32_t id : tokens) check_in_vocabulary(id, config().vocab_size);
}

std::span<const float> InferenceEngine::prefill(std::span<const int32_t> tokens) {
  check_appendable(tokens);
  const int64_t whole = length() + static_cast<int64_t>(tokens.size());
  while (!tokens.empty()) {
    const auto part = tokens.first(std::min<size_t>(tokens.size(), options_.prefill_chunk));
    fill_inputs(part, length());
    const BatchLayout batch = lay_out(length(), static_cast<int64_t>(part.size()), whole);
    forward_last_logits(batch);
    tokens_.insert(tokens_.end(), part.begin(), part.end());
    tokens = tokens.subspan(part.size());
  }
  copy_tensor(Tensor(host_logits_.data(), DType::kF32, {logits_.numel()}), logits_);
  return host_logits_;
}

void InferenceEngine::score(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                            std::span<float> logprobs, std::span<int32_t> likeliest) {
  check_appendable(tokens);
  DT_CHECK(targets.size() == tokens.size() && logprobs.size() == tokens.size() && likeliest.size() == tokens.size(),
           "score: {} tokens with {} targets and room for {} and {} results", tokens.size(), targets.size(),
           logprobs.size(), likeliest.size());
  for (const int32_t id : targets) {
    if (id != -1) check_in_vocabulary(id, config().vocab_size);
  }
  const int64_t whole = length() + static_cast<int64_t>(tokens.size());
  for (size_t first = 0; first < tokens.size();) {
    const size_t count = std::min<size_t>(tokens.size() - first, options_.prefill_chunk);
    const auto rows = static_cast<int64_t>(count);
    fill_inputs(tokens.subspan(first, count), length());
    upload<int32_t>(targets_.rows(0, rows), targets.subspan(first, count));
    forward_logprobs(lay_out(length(), rows, whole), logprobs_.rows(0, rows), likeliest_.rows(0, rows),
                     targets_.rows(0, rows));
    copy_tensor(Tensor(logprobs.data() + first, DType::kF32, {rows}), logprobs_.rows(0, rows));
    copy_tensor(Tensor(likeliest.data() + first, DType::kI32, {rows}), likeliest_.rows(0, rows));
    tokens_.insert(tokens_.end(), tokens.begin() + static_cast<int64_t>(first),
                   tokens.begin() + static_cast<int64_t>(first + count));
    first += count;
  }
}

void InferenceEngine::truncate(int64_t length) {
  DT_CHECK(0 <= length && length <= this->length(), "truncate to {}: the cache holds {} tokens", length,
           this->length());
  tokens_.resize(length);
}

int64_t InferenceEngine::keep_common_prefix(std::span<const int32_t> tokens) {
  const size_t most = std::min(tokens_.size(), tokens.empty() ? 0 : tokens.size() - 1);
  size_t same = 0;
  while (same < most && tokens_[same] == tokens[same]) ++same;
  truncate(static_cast<int64_t>(same));
  return length();
}

}  // namespace deeptitan

#include "model/attention/mla.h"

#include "core/error.h"
#include "ops/elementwise.h"

// T tokens, D hidden, H heads, L = kv_lora_rank, Q = q_lora_rank, Dn/Dr/Dv nope, rope and value part of a head.

namespace deeptitan {
namespace {

// The norms inside the attention keep the default epsilon, whatever the model's rms_norm_eps: so the published code
// and every released checkpoint have it.
constexpr double kLatentNormEpsilon = 1e-6;

}  // namespace

// What forward leaves for backward, then what backward_input leaves for backward_weights.
struct MultiHeadLatentAttention::Saved final : Record {
  Tensor q_latent, q_latent_rstd, q_latent_normed;  // [T, Q], [T], [T, Q]; only with a bottleneck
  Tensor query;                                     // [T, H * (Dn + Dr)], rotated
  Tensor kv_latent;                                 // [T, L + Dr]: the latent, then the rope key, rotated
  Tensor latent_rstd, latent_normed;                // [T], [T, L]
  Tensor key_value;                                 // [T, H * (Dn + Dv)]
  Tensor attended;                                  // [T, H * Dv]
  Tensor log_sum_exp;                               // [T, H]
  Tensor d_query, d_q_latent, d_q_latent_normed, d_key_value, d_kv_latent, d_latent_normed;

  // Undefined gradients: an inference forward, whose tensors all come from the workspace.
  Saved(const MultiHeadLatentAttention& a, Arena& saved, Arena& cheap, int64_t tokens) {
    const AttentionShape& s = a.shape_;
    if (a.q_a_) {
      q_latent = saved.take(a.dtype_, {tokens, a.query_rank_});
      q_latent_rstd = saved.take(DType::kF32, {tokens});
      q_latent_normed = cheap.take(a.dtype_, {tokens, a.query_rank_});
    }
    query = saved.take(a.dtype_, {tokens, s.heads * (s.nope_dim + s.rope_dim)});
    kv_latent = saved.take(a.dtype_, {tokens, a.latent_dim_ + s.rope_dim});
    latent_rstd = saved.take(DType::kF32, {tokens});
    latent_normed = cheap.take(a.dtype_, {tokens, a.latent_dim_});
    if (a.kv_b_) key_value = saved.take(a.dtype_, {tokens, s.heads * (s.nope_dim + s.value_dim)});
    attended = saved.take(a.dtype_, {tokens, s.heads * s.value_dim});
    if (a.kv_b_) log_sum_exp = saved.take(DType::kF32, {tokens, s.heads});
  }
  void take_gradients(const MultiHeadLatentAttention& a, Arena& gradients, int64_t tokens) {
    const AttentionShape& s = a.shape_;
    d_query = gradients.take(a.dtype_, {tokens, s.heads * (s.nope_dim + s.rope_dim)});
    if (a.q_a_) {
      d_q_latent = gradients.take(a.dtype_, {tokens, a.query_rank_});
      d_q_latent_normed = gradients.take(a.dtype_, {tokens, a.query_rank_});
    }
    d_key_value = gradients.take(a.dtype_, {tokens, s.heads * (s.nope_dim + s.value_dim)});
    d_kv_latent = gradients.take(a.dtype_, {tokens, a.latent_dim_ + s.rope_dim});
    d_latent_normed = gradients.take(a.dtype_, {tokens, a.latent_dim_});
  }
  Tensor latent(const Tensor& whole, int64_t latent_dim) const { return whole.columns(0, latent_dim); }
  Tensor key_rope(const Tensor& whole, int64_t latent_dim) const { return whole.columns(latent_dim, whole.size(1)); }
};

MultiHeadLatentAttention::MultiHeadLatentAttention(ParameterList& parameters, const LatentAttentionPlan& plan,
                                                   int64_t hidden, int64_t layer, const RopeTable& rope)
    : shape_(plan.shape),
      latent_dim_(plan.latent_dim),
      query_rank_(plan.query_rank),
      layer_(layer),
      dtype_(parameters.compute()),
      rope_(rope),
      rotate_halves_(plan.rotate_halves),
      q_a_(query_rank_ > 0 ? std::optional<LinearLayer>(std::in_place, parameters, plan.query_down, query_rank_, hidden,
                                                        LinearOptions{.bias = plan.bias, .operand = dtype_})
                           : std::nullopt),
      q_norm_(query_rank_ > 0 ? std::optional<NormLayer>(std::in_place, parameters, plan.query_norm, query_rank_,
                                                         kLatentNormEpsilon)
                              : std::nullopt),
      q_b_(parameters, plan.query, shape_.heads * (shape_.nope_dim + shape_.rope_dim),
           query_rank_ > 0 ? query_rank_ : hidden, {.operand = dtype_}),
      kv_a_(parameters, plan.latent_down, latent_dim_ + shape_.rope_dim, hidden,
            {.bias = plan.bias, .operand = dtype_}),
      kv_norm_(parameters, plan.latent_norm, latent_dim_, kLatentNormEpsilon),
      key_value_(parameters.declare({.name = plan.key_value + ".weight",
                                     .shape = {shape_.heads * (shape_.nope_dim + shape_.value_dim), latent_dim_}})),
      kv_b_(parameters.training() ? std::optional<LinearLayer>(std::in_place, parameters, key_value_, dtype_)
                                  : std::nullopt),
      out_(parameters, plan.out, hidden, shape_.heads * shape_.value_dim, {.bias = plan.bias, .operand = dtype_}) {
  if (parameters.training()) return;
  HeadRows rows{
      .heads = shape_.heads, .stride = shape_.nope_dim + shape_.value_dim, .first = 0, .count = shape_.nope_dim};
  key_ = parameters.prepare_heads(key_value_, dtype_, rows, /*transposed=*/false);
  absorbed_key_ = parameters.prepare_heads(key_value_, dtype_, rows, /*transposed=*/true);
  rows.first = shape_.nope_dim;
  rows.count = shape_.value_dim;
  value_ = parameters.prepare_heads(key_value_, dtype_, rows, /*transposed=*/false);
}

void MultiHeadLatentAttention::rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first,
                                      const Tensor& positions, bool inverse) const {
  rope_rotate(ctx, x, heads, first, rope_.cos(), rope_.sin(), positions, rotate_halves_, inverse);
}

void MultiHeadLatentAttention::rotate_both(ExecutionContext& ctx, const Tensor& query, const Tensor& key_rope,
                                           const Tensor& positions) const {
  rotate(ctx, query, shape_.heads, shape_.nope_dim, positions, /*inverse=*/false);
  rotate(ctx, key_rope, 1, 0, positions, /*inverse=*/false);
}

std::unique_ptr<Record> MultiHeadLatentAttention::make_record(const RecordArenas& arenas, int64_t tokens) const {
  auto saved = std::make_unique<Saved>(*this, arenas.saved, arenas.cheap(), tokens);
  saved->take_gradients(*this, arenas.gradients, tokens);
  return saved;
}

void MultiHeadLatentAttention::forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out,
                                       const Tensor& x, Record* record) const {
  const BatchLayout& batch = forward.batch;
  const int64_t tokens = x.size(0);
  ArenaScope workspace(*ctx.workspace);
  std::optional<Saved> temporary;
  if (record == nullptr) temporary.emplace(*this, *ctx.workspace, *ctx.workspace, tokens);
  Saved& s = record == nullptr ? *temporary : static_cast<Saved&>(*record);

  const LinearLayer& query_down = q_a_ ? *q_a_ : q_b_;
  const Tensor& query = q_a_ ? s.q_latent : s.query;
  query_down.forward_beside(ctx, query, kv_a_, s.kv_latent, x);
  if (q_a_) {
    q_norm_->forward(ctx, s.q_latent_normed, s.q_latent_rstd, s.q_latent);
    q_b_.forward(ctx, s.query, s.q_latent_normed);
  }
  DT_CHECK(batch.cached() || kv_b_, "attention without a cache needs a model for training");
  if (batch.cached()) {
    attend_through_cache(ctx, forward, s);
  } else {
    const Tensor key_rope = s.key_rope(s.kv_latent, latent_dim_);
    kv_norm_.forward(ctx, s.latent_normed, s.latent_rstd, s.latent(s.kv_latent, latent_dim_));
    rotate_both(ctx, s.query, key_rope, batch.positions);
    kv_b_->forward(ctx, s.key_value, s.latent_normed);
    attention(ctx, s.attended, record == nullptr ? Tensor() : s.log_sum_exp, s.query, s.key_value, key_rope,
              batch.documents(), shape_);
  }
  out_.forward(ctx, out, s.attended);
}

void MultiHeadLatentAttention::recompute(ExecutionContext& ctx, const ForwardContext& /*forward*/, const Tensor& /*x*/,
                                         Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  if (q_a_) q_norm_->forward(ctx, s.q_latent_normed, {}, s.q_latent);
  kv_norm_.forward(ctx, s.latent_normed, {}, s.latent(s.kv_latent, latent_dim_));
}

// Each sequence takes the form that its number of rows asks for; the rows' own entries are read back from the cache, so
// that both forms see what later tokens will see.
void MultiHeadLatentAttention::attend_through_cache(ExecutionContext& ctx, const ForwardContext& forward,
                                                    const Saved& s) const {
  const BatchLayout& batch = forward.batch;
  const Tensor& cache = forward.cache[layer_].front();
  const Tensor& out = s.attended;
  const LatentEntries entries{.query = s.query,
                              .kv_latent = s.kv_latent,
                              .norm_weight = kv_norm_.weight(),
                              .epsilon = kv_norm_.epsilon(),
                              .cos = rope_.cos(),
                              .sin = rope_.sin(),
                              .positions = batch.positions,
                              .halves = rotate_halves_,
                              .slot = batch.cache_slot};
  if (batch.capacity.max_query < kExpandedRows &&
      attention_of_few(ctx, out, entries, cache, batch.sequences(), *absorbed_key_, *value_, shape_)) {
    return;
  }
  if (!enter_latents(ctx, entries, cache, shape_)) {
    const Tensor key_rope = s.key_rope(s.kv_latent, latent_dim_);
    kv_norm_.forward(ctx, s.latent_normed, {}, s.latent(s.kv_latent, latent_dim_));
    rotate_both(ctx, s.query, key_rope, batch.positions);
    write_latent_cache(ctx, cache, batch.cache_slot, s.latent_normed, key_rope);
  }
  if (ctx.check_finite) fill_zero(ctx, out);  // each form looks at all rows, and writes its own
  if (batch.capacity.max_query >= kExpandedRows) {
    expanded_attention(ctx, out, s.query, cache, batch.sequences(), *key_, *value_, shape_);
  }
  // Rows of few come first where sequences decode beside prompts.
  const int64_t few_end = batch.capacity.few_end < 0 ? batch.tokens() : batch.capacity.few_end;
  if (few_end == 0) return;
  absorbed_attention(ctx, out.rows(0, few_end), s.query.rows(0, few_end), cache, batch.sequences(), *absorbed_key_,
                     *value_, shape_);
}

void MultiHeadLatentAttention::backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x,
                                              const Tensor& d_out, const Tensor& x, Record& record) const {
  const BatchLayout& batch = forward.batch;
  Saved& s = static_cast<Saved&>(record);
  ArenaScope workspace(*ctx.workspace);
  const Tensor d_attended = workspace.take(dtype_, {x.size(0), s.attended.size(1)});
  out_.backward_input(ctx, d_attended, d_out, false);
  const Tensor key_rope = s.key_rope(s.kv_latent, latent_dim_);
  const Tensor d_key_rope = s.key_rope(s.d_kv_latent, latent_dim_);
  attention_backward(ctx, s.d_query, s.d_key_value, d_key_rope, d_attended, s.attended, s.log_sum_exp, s.query,
                     s.key_value, key_rope, batch.documents(), shape_);
  rotate(ctx, s.d_query, shape_.heads, shape_.nope_dim, batch.positions, /*inverse=*/true);
  rotate(ctx, d_key_rope, 1, 0, batch.positions, /*inverse=*/true);
  kv_b_->backward_input(ctx, s.d_latent_normed, s.d_key_value, false);
  kv_norm_.backward_input(ctx, s.latent(s.d_kv_latent, latent_dim_), s.d_latent_normed,
                          s.latent(s.kv_latent, latent_dim_), s.latent_rstd, false);
  kv_a_.backward_input(ctx, d_x, s.d_kv_latent, false);
  if (q_a_) {
    q_b_.backward_input(ctx, s.d_q_latent_normed, s.d_query, false);
    q_norm_->backward_input(ctx, s.d_q_latent, s.d_q_latent_normed, s.q_latent, s.q_latent_rstd, false);
    q_a_->backward_input(ctx, d_x, s.d_q_latent, true);
  } else {
    q_b_.backward_input(ctx, d_x, s.d_query, true);
  }
}

void MultiHeadLatentAttention::backward_weights(ExecutionContext& ctx, const ForwardContext& /*forward*/,
                                                const Tensor& d_out, const Tensor& x, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  out_.backward_weights(ctx, d_out, s.attended);
  kv_b_->backward_weights(ctx, s.d_key_value, s.latent_normed);
  kv_norm_.backward_weights(ctx, s.d_latent_normed, s.latent(s.kv_latent, latent_dim_), s.latent_rstd);
  kv_a_.backward_weights(ctx, s.d_kv_latent, x);
  if (q_a_) {
    q_b_.backward_weights(ctx, s.d_query, s.q_latent_normed);
    q_norm_->backward_weights(ctx, s.d_q_latent_normed, s.q_latent, s.q_latent_rstd);
    q_a_->backward_weights(ctx, s.d_q_latent, x);
  } else {
    q_b_.backward_weights(ctx, s.d_query, x);
  }
}

std::vector<CacheStream> MultiHeadLatentAttention::cache_streams() const {
  return {{.name = "latent", .width = latent_dim_ + shape_.rope_dim}};
}

}  // namespace deeptitan

#include "model/decoder_layer.h"

#include <optional>
#include <utility>
#include <variant>

#include "core/error.h"
#include "model/attention/mla.h"
#include "model/mlp.h"
#include "ops/elementwise.h"

namespace deeptitan {

struct PreNormDecoderLayer::Saved final : Record {
  Tensor attention_in, attention_rstd;        // [T, D], [T]
  Tensor middle;                              // [T, D]: after the attention's addition
  Tensor feed_forward_in, feed_forward_rstd;  // [T, D], [T]
  std::unique_ptr<Record> attention;
  std::unique_ptr<Record> feed_forward;
  Tensor d_attention_in, d_middle, d_feed_forward_in;

  Saved(const PreNormDecoderLayer& layer, Arena& saved, Arena& cheap, int64_t tokens)
      : attention_in(cheap.take(layer.dtype_, {tokens, layer.hidden_})),
        attention_rstd(saved.take(DType::kF32, {tokens})),
        middle(saved.take(layer.dtype_, {tokens, layer.hidden_})),
        feed_forward_in(cheap.take(layer.dtype_, {tokens, layer.hidden_})),
        feed_forward_rstd(saved.take(DType::kF32, {tokens})) {}
};

namespace {

std::unique_ptr<Sublayer> make_attention(ParameterList& parameters, const LayerPlan& layer, const RopeTable& rope) {
  return std::visit(
      [&](const LatentAttentionPlan& plan) -> std::unique_ptr<Sublayer> {
        return std::make_unique<MultiHeadLatentAttention>(parameters, plan, layer.hidden, layer.index, rope);
      },
      layer.attention);
}

}  // namespace

std::unique_ptr<DecoderLayer> make_decoder_layer(ParameterList& parameters, const LayerPlan& plan,
                                                 const LayerContext& context) {
  switch (plan.residual) {
    case ResidualKind::kPreNorm:
      return std::make_unique<PreNormDecoderLayer>(parameters, plan, context);
  }
  fail("layer {}: its residual kind {} has no class", plan.index, static_cast<int>(plan.residual));
}

PreNormDecoderLayer::PreNormDecoderLayer(ParameterList& parameters, const LayerPlan& plan, const LayerContext& context)
    : hidden_(plan.hidden),
      dtype_(parameters.compute()),
      attention_norm_(parameters, plan.attention_norm, hidden_, plan.norm_epsilon),
      attention_(make_attention(parameters, plan, context.rope)),
      feed_forward_norm_(parameters, plan.feed_forward_norm, hidden_, plan.norm_epsilon) {
  if (const auto* experts = std::get_if<ExpertsPlan>(&plan.feed_forward)) {
    auto layer = std::make_unique<MixtureOfExperts>(parameters, *experts, hidden_, plan.index, context.auxiliary_weight,
                                                    context.make_dispatcher(experts->router));
    experts_ = layer.get();
    feed_forward_ = std::move(layer);
  } else {
    feed_forward_ = std::make_unique<GatedMlp>(parameters, std::get<GatedMlpPlan>(plan.feed_forward), hidden_);
  }
}

std::unique_ptr<Record> PreNormDecoderLayer::make_record(const RecordArenas& arenas, int64_t tokens) const {
  auto saved = std::make_unique<Saved>(*this, arenas.saved, arenas.cheap(), tokens);
  saved->attention = attention_->make_record(arenas, tokens);
  saved->feed_forward = feed_forward_->make_record(arenas, tokens);
  saved->d_attention_in = arenas.gradients.take(dtype_, {tokens, hidden_});
  saved->d_middle = arenas.gradients.take(dtype_, {tokens, hidden_});
  saved->d_feed_forward_in = arenas.gradients.take(dtype_, {tokens, hidden_});
  return saved;
}

void PreNormDecoderLayer::forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out,
                                  const Tensor& in, Record* record) const {
  ArenaScope workspace(*ctx.workspace);
  std::optional<Saved> temporary;
  if (record == nullptr) temporary.emplace(*this, *ctx.workspace, *ctx.workspace, in.size(0));
  Saved& s = record == nullptr ? *temporary : static_cast<Saved&>(*record);
  // `out` holds each sublayer's result until it is added to the residual stream.
  attention_norm_.forward(ctx, s.attention_in, s.attention_rstd, in);
  attention_->forward(ctx, forward, out, s.attention_in, s.attention.get());
  feed_forward_norm_.forward_after_add(ctx, s.middle, s.feed_forward_in, s.feed_forward_rstd, in, out);
  if (record == nullptr) return feed_forward_->forward_onto(ctx, forward, out, s.feed_forward_in, s.middle);
  feed_forward_->forward(ctx, forward, out, s.feed_forward_in, s.feed_forward.get());
  add(ctx, out, out, s.middle);
}

// feed_forward_in has the bits of forward_after_add, which norms the sum as it is stored.
void PreNormDecoderLayer::recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& in,
                                    Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  attention_norm_.forward(ctx, s.attention_in, {}, in);
  attention_->recompute(ctx, forward, s.attention_in, *s.attention);
  feed_forward_norm_.forward(ctx, s.feed_forward_in, {}, s.middle);
  feed_forward_->recompute(ctx, forward, s.feed_forward_in, *s.feed_forward);
}

void PreNormDecoderLayer::backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_in,
                                         const Tensor& d_out, const Tensor& in, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  feed_forward_->backward_input(ctx, forward, s.d_feed_forward_in, d_out, s.feed_forward_in, *s.feed_forward);
  convert(ctx, s.d_middle, d_out);
  feed_forward_norm_.backward_input(ctx, s.d_middle, s.d_feed_forward_in, s.middle, s.feed_forward_rstd, true);
  attention_->backward_input(ctx, forward, s.d_attention_in, s.d_middle, s.attention_in, *s.attention);
  convert(ctx, d_in, s.d_middle);
  attention_norm_.backward_input(ctx, d_in, s.d_attention_in, in, s.attention_rstd, true);
}

void PreNormDecoderLayer::backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out,
                                           const Tensor& in, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  feed_forward_->backward_weights(ctx, forward, d_out, s.feed_forward_in, *s.feed_forward);
  feed_forward_norm_.backward_weights(ctx, s.d_feed_forward_in, s.middle, s.feed_forward_rstd);
  attention_->backward_weights(ctx, forward, s.d_middle, s.attention_in, *s.attention);
  attention_norm_.backward_weights(ctx, s.d_attention_in, in, s.attention_rstd);
}

}  // namespace deeptitan

#include "model/next_token_prediction.h"

#include "ops/elementwise.h"

namespace deeptitan {

struct NextTokenPrediction::Saved final : Record {
  Tensor embedded, embedded_rstd;  // [T, D], [T]
  Tensor hidden_rstd;              // [T]
  Tensor joined;                   // [T, 2 D]: normed embedding, normed state
  Tensor in, out;                  // [T, D]: of the decoder layer
  Tensor out_normed, out_rstd;     // [T, D], [T]
  std::unique_ptr<Record> layer;
  Tensor d_out_normed, d_out, d_in, d_joined, d_embedded;
};

NextTokenPrediction::NextTokenPrediction(ParameterList& parameters, const NextTokenPredictionPlan& plan,
                                         const LayerContext& context, Parameter* embedding)
    : hidden_(plan.layer.hidden),
      dtype_(parameters.compute()),
      embedding_(embedding),
      embedding_norm_(parameters, plan.embedding_norm, hidden_, plan.layer.norm_epsilon),
      hidden_norm_(parameters, plan.hidden_norm, hidden_, plan.layer.norm_epsilon),
      join_(parameters, plan.join, hidden_, 2 * hidden_, {.operand = dtype_}),
      layer_(make_decoder_layer(parameters, plan.layer, context)),
      out_norm_(parameters, plan.out_norm, hidden_, plan.layer.norm_epsilon) {}

std::unique_ptr<Record> NextTokenPrediction::make_record(const RecordArenas& arenas, int64_t tokens) const {
  auto s = std::make_unique<Saved>();
  s->embedded = arenas.saved.take(dtype_, {tokens, hidden_});
  s->embedded_rstd = arenas.saved.take(DType::kF32, {tokens});
  s->hidden_rstd = arenas.saved.take(DType::kF32, {tokens});
  s->joined = arenas.cheap().take(dtype_, {tokens, 2 * hidden_});
  s->in = arenas.saved.take(dtype_, {tokens, hidden_});
  s->out = arenas.saved.take(dtype_, {tokens, hidden_});
  s->out_normed = arenas.saved.take(dtype_, {tokens, hidden_});
  s->out_rstd = arenas.saved.take(DType::kF32, {tokens});
  s->layer = layer_->make_record(arenas, tokens);
  s->d_out_normed = arenas.saved.take(dtype_, {tokens, hidden_});  // the loss writes it in the forward
  s->d_out = arenas.gradients.take(dtype_, {tokens, hidden_});
  s->d_in = arenas.gradients.take(dtype_, {tokens, hidden_});
  s->d_joined = arenas.gradients.take(dtype_, {tokens, 2 * hidden_});
  s->d_embedded = arenas.gradients.take(dtype_, {tokens, hidden_});
  return s;
}

void NextTokenPrediction::forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& loss,
                                  const Tensor& hidden, const Tensor& next_ids, const Tensor& next_targets,
                                  const LanguageModelHead& head, const double* gradient_scale, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  embedding(ctx, s.embedded, embedding_->value, next_ids);
  embedding_norm_.forward(ctx, s.joined.columns(0, hidden_), s.embedded_rstd, s.embedded);
  hidden_norm_.forward(ctx, s.joined.columns(hidden_, 2 * hidden_), s.hidden_rstd, hidden);
  join_.forward(ctx, s.in, s.joined);
  layer_->forward(ctx, forward, s.out, s.in, s.layer.get());
  out_norm_.forward(ctx, s.out_normed, s.out_rstd, s.out);
  head.loss(ctx, loss, s.d_out_normed, s.out_normed, next_targets, gradient_scale, false);
}

void NextTokenPrediction::recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& hidden,
                                    Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  embedding_norm_.forward(ctx, s.joined.columns(0, hidden_), {}, s.embedded);
  hidden_norm_.forward(ctx, s.joined.columns(hidden_, 2 * hidden_), {}, hidden);
  layer_->recompute(ctx, forward, s.in, *s.layer);
}

void NextTokenPrediction::backward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_hidden,
                                   const Tensor& hidden, const Tensor& next_ids, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  out_norm_.backward_input(ctx, s.d_out, s.d_out_normed, s.out, s.out_rstd, false);
  out_norm_.backward_weights(ctx, s.d_out_normed, s.out, s.out_rstd);
  layer_->backward_input(ctx, forward, s.d_in, s.d_out, s.in, *s.layer);
  layer_->backward_weights(ctx, forward, s.d_out, s.in, *s.layer);
  join_.backward_input(ctx, s.d_joined, s.d_in, false);
  join_.backward_weights(ctx, s.d_in, s.joined);
  const Tensor d_embedded_normed = s.d_joined.columns(0, hidden_);
  const Tensor d_hidden_normed = s.d_joined.columns(hidden_, 2 * hidden_);
  hidden_norm_.backward_input(ctx, d_hidden, d_hidden_normed, hidden, s.hidden_rstd, true);
  hidden_norm_.backward_weights(ctx, d_hidden_normed, hidden, s.hidden_rstd);
  embedding_norm_.backward_input(ctx, s.d_embedded, d_embedded_normed, s.embedded, s.embedded_rstd, false);
  embedding_norm_.backward_weights(ctx, d_embedded_normed, s.embedded, s.embedded_rstd);
  if (embedding_->gradient.defined()) embedding_backward(ctx, embedding_->gradient, s.d_embedded, next_ids);
}

}  // namespace deeptitan

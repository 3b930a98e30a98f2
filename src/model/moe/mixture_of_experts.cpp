#include "model/moe/mixture_of_experts.h"

#include <utility>

#include "ops/elementwise.h"

// T tokens, D hidden, E experts, K experts a token, R rows in the order of the experts, I width of an expert.

namespace deeptitan {

struct MixtureOfExperts::Saved final : Record {
  Routing routing;
  TokenDispatcher::Route route;
  Tensor rows;        // [R, D]: the tokens, sorted by expert
  Tensor gate_up;     // [R, 2 I]
  Tensor activated;   // [R, I]
  Tensor expert_out;  // [R, D]
  std::unique_ptr<Record> shared;
  Tensor d_logits;      // f32 [T, E]
  Tensor d_expert_out;  // [R, D]
  Tensor d_gate_up;     // [R, 2 I]

  Saved(const MixtureOfExperts& moe, Arena& saved, int64_t tokens) {
    const RouterOptions& o = moe.options_;
    const int64_t capacity = moe.dispatcher_->capacity(tokens);
    routing.expert_index = saved.take(DType::kI32, {tokens, o.top_k});
    routing.expert_weight = saved.take(DType::kF32, {tokens, o.top_k});
    routing.scores = saved.take(DType::kF32, {tokens, o.experts});
    routing.counts = saved.take(DType::kI32, {o.experts});
    route = moe.dispatcher_->make_route(saved, tokens);
    rows = saved.take(moe.dtype_, {capacity, moe.hidden_});
    gate_up = saved.take(moe.dtype_, {capacity, 2 * moe.width_});
    activated = saved.take(moe.dtype_, {capacity, moe.width_});
    expert_out = saved.take(moe.dtype_, {capacity, moe.hidden_});
  }
};

MixtureOfExperts::MixtureOfExperts(ParameterList& parameters, const ExpertsPlan& plan, int64_t hidden, int64_t layer,
                                   double auxiliary_weight, std::unique_ptr<TokenDispatcher> dispatcher)
    : options_(plan.router),
      hidden_(hidden),
      width_(plan.width),
      layer_(layer),
      auxiliary_weight_(auxiliary_weight),
      dtype_(parameters.compute()),
      router_(parameters, plan.router_weight, options_.experts, hidden_, {.operand = DType::kF32}),
      bias_(options_.bias ? parameters.declare({.name = plan.router_bias,
                                                .shape = {options_.experts},
                                                .initialization = Initialization::kZeros,
                                                .weight_decay = false,
                                                .trained = false,
                                                .direct = true})
                          : nullptr),
      gate_up_(parameters, plan.gate_up, 2 * width_, hidden_,
               {.pieces = gate_up_pieces(plan.gate, plan.up, width_), .groups = options_.experts, .operand = dtype_}),
      down_(parameters, plan.down, hidden_, width_, {.groups = options_.experts, .operand = dtype_}),
      dispatcher_(std::move(dispatcher)) {
  check_router_options(options_);
  if (plan.shared) shared_.emplace(parameters, *plan.shared, hidden_);
}

std::unique_ptr<Record> MixtureOfExperts::make_record(const RecordArenas& arenas, int64_t tokens) const {
  auto saved = std::make_unique<Saved>(*this, arenas.saved, tokens);
  if (shared_) saved->shared = shared_->make_record(arenas, tokens);
  saved->d_logits = arenas.gradients.take(DType::kF32, {tokens, options_.experts});
  saved->d_expert_out = arenas.gradients.take(dtype_, {saved->rows.size(0), hidden_});
  saved->d_gate_up = arenas.gradients.take(dtype_, {saved->rows.size(0), 2 * width_});
  return saved;
}

void MixtureOfExperts::forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
                               Record* record) const {
  const int64_t tokens = x.size(0);
  ArenaScope workspace(*ctx.workspace);
  std::optional<Saved> temporary;
  if (record == nullptr) temporary.emplace(*this, *ctx.workspace, tokens);
  Saved& s = record == nullptr ? *temporary : static_cast<Saved&>(*record);

  {
    ArenaScope routing(*ctx.workspace);
    const Tensor wide = routing.take(DType::kF32, {tokens, hidden_});
    const Tensor logits = routing.take(DType::kF32, {tokens, options_.experts});
    convert(ctx, wide, x);
    router_.forward(ctx, logits, wide);
    RouteRecord* record_of_routes = forward.routes;
    if (record_of_routes != nullptr && record_of_routes->replay) {
      copy(ctx, s.routing.expert_index, record_of_routes->expert_index[layer_]);
      route_as_recorded(ctx, s.routing, logits, options_);
    } else {
      route(ctx, s.routing, logits, bias_ == nullptr ? Tensor() : bias_->value, options_);
      if (record_of_routes != nullptr) copy(ctx, record_of_routes->expert_index[layer_], s.routing.expert_index);
    }
  }
  if (forward.auxiliary != nullptr) {
    accumulate_counts(ctx, forward.auxiliary->expert_load(layer_), s.routing.counts);
    if (auxiliary_weight_ > 0) {
      sequence_auxiliary_loss(ctx, forward.auxiliary->balance_loss(layer_), {}, s.routing, forward.batch.balance_offset,
                              options_, auxiliary_weight_, nullptr);
    }
  }
  dispatcher_->dispatch(ctx, s.rows, x, s.routing, s.route);
  const RowGroups groups = dispatcher_->groups(s.routing, s.route);
  gate_up_.forward_grouped(ctx, s.gate_up, s.rows, groups);
  swiglu(ctx, s.activated, s.gate_up.columns(0, width_), s.gate_up.columns(width_, 2 * width_));
  down_.forward_grouped(ctx, s.expert_out, s.activated, groups);
  if (shared_) shared_->forward(ctx, forward, out, x, s.shared.get());
  dispatcher_->combine(ctx, out, s.expert_out, s.routing.expert_weight, shared_ ? out : Tensor(), s.route);
}

void MixtureOfExperts::backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x,
                                      const Tensor& d_out, const Tensor& x, Record& record) const {
  const int64_t tokens = x.size(0);
  Saved& s = static_cast<Saved&>(record);
  const RowGroups groups = dispatcher_->groups(s.routing, s.route);
  ArenaScope workspace(*ctx.workspace);
  const Tensor d_weight = workspace.take(DType::kF32, {tokens, options_.top_k});
  const Tensor d_activated = workspace.take(dtype_, {s.rows.size(0), width_});
  const Tensor d_rows = workspace.take(dtype_, {s.rows.size(0), hidden_});
  dispatcher_->combine_backward(ctx, s.d_expert_out, d_weight, d_out, s.expert_out, s.routing.expert_weight, s.route);
  down_.backward_input_grouped(ctx, d_activated, s.d_expert_out, groups, false);
  const Tensor d_gate = s.d_gate_up.columns(0, width_);
  const Tensor d_up = s.d_gate_up.columns(width_, 2 * width_);
  swiglu_backward(ctx, d_gate, d_up, d_activated, s.gate_up.columns(0, width_), s.gate_up.columns(width_, 2 * width_));
  gate_up_.backward_input_grouped(ctx, d_rows, s.d_gate_up, groups, false);
  if (shared_) shared_->backward_input(ctx, forward, d_x, d_out, x, *s.shared);
  dispatcher_->dispatch_backward(ctx, d_x, d_rows, shared_ ? d_x : Tensor(), s.route);

  Tensor d_scores;
  if (auxiliary_weight_ > 0 && forward.auxiliary != nullptr) {
    d_scores = workspace.take(DType::kF32, {tokens, options_.experts});
    fill_zero(ctx, d_scores);
    // The forward has counted the loss.
    sequence_auxiliary_loss(ctx, nullptr, d_scores, s.routing, forward.batch.balance_offset, options_,
                            auxiliary_weight_, &ctx.state->in.token_scale);
  }
  route_backward(ctx, s.d_logits, d_weight, d_scores, s.routing, options_);
  router_.backward_input(ctx, d_x, s.d_logits, true);
}

void MixtureOfExperts::backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out,
                                        const Tensor& x, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  const RowGroups groups = dispatcher_->groups(s.routing, s.route);
  down_.backward_weights_grouped(ctx, s.d_expert_out, s.activated, groups);
  gate_up_.backward_weights_grouped(ctx, s.d_gate_up, s.rows, groups);
  if (shared_) shared_->backward_weights(ctx, forward, d_out, x, *s.shared);
  ArenaScope workspace(*ctx.workspace);
  const Tensor wide = workspace.take(DType::kF32, {x.size(0), hidden_});
  convert(ctx, wide, x);
  router_.backward_weights(ctx, s.d_logits, wide);
}

}  // namespace deeptitan

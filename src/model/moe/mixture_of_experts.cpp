#include "model/moe/mixture_of_experts.h"

#include <algorithm>
#include <utility>

#include "ops/elementwise.h"
#include "ops/mixture.h"

// T tokens, D hidden, E experts, K experts a token, R rows in the order of the experts, I width of an expert.

namespace deeptitan {

struct MixtureOfExperts::Saved final : Record {
  ExpertRows experts;
  std::unique_ptr<Record> shared;
  Tensor d_logits;  // f32 [T, E]

  Saved(const MixtureOfExperts& moe, Arena& saved, Arena& cheap, int64_t tokens) {
    const RouterOptions& o = moe.options_;
    const int64_t capacity = moe.dispatcher_->capacity(tokens);
    experts.routing.expert_index = saved.take(DType::kI32, {tokens, o.top_k});
    experts.routing.expert_weight = saved.take(DType::kF32, {tokens, o.top_k});
    experts.routing.scores = saved.take(DType::kF32, {tokens, o.experts});
    experts.routing.counts = saved.take(DType::kI32, {o.experts});
    experts.route = moe.dispatcher_->make_route(saved, tokens, capacity);
    Arena& of_rows = moe.dispatcher_->can_dispatch_again() ? cheap : saved;
    experts.rows = of_rows.take(moe.dtype_, {capacity, moe.hidden_});
    experts.activated = cheap.take(moe.dtype_, {capacity, moe.width_});
    experts.expert_out = saved.take(moe.dtype_, {capacity, moe.hidden_});
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
  auto saved = std::make_unique<Saved>(*this, arenas.saved, arenas.cheap(), tokens);
  if (shared_) saved->shared = shared_->make_record(arenas, tokens);
  const int64_t capacity = saved->experts.rows.size(0);
  saved->experts.gate_up = arenas.saved.take(dtype_, {capacity, 2 * width_});
  saved->d_logits = arenas.gradients.take(DType::kF32, {tokens, options_.experts});
  saved->experts.d_expert_out = arenas.gradients.take(dtype_, {capacity, hidden_});
  saved->experts.d_gate_up = arenas.gradients.take(dtype_, {capacity, 2 * width_});
  return saved;
}

// Calls body(slice, first token, end) for slices of tokens whose rows fit, one after another in the same memory. What a
// slice leaves there is gone when the next begins, so a backward works it out again.
template <typename Body>
void MixtureOfExperts::for_slices(ExecutionContext& ctx, const ExpertRows& whole, const Body& body) const {
  const int64_t tokens = whole.routing.expert_index.size(0);
  const int64_t most = dispatcher_->tokens_that_fit(tokens);
  for (int64_t first = 0; first < tokens; first += most) {
    const int64_t end = std::min(tokens, first + most);
    ArenaScope workspace(*ctx.workspace);
    ExpertRows slice = whole;
    slice.routing.expert_index = whole.routing.expert_index.rows(first, end);
    slice.routing.expert_weight = whole.routing.expert_weight.rows(first, end);
    slice.routing.scores = whole.routing.scores.rows(first, end);
    slice.routing.counts = workspace.take(DType::kI32, {options_.experts});
    slice.route = dispatcher_->make_route(*ctx.workspace, end - first, whole.rows.size(0));
    count_choices(ctx, slice.routing.counts, slice.routing.expert_index);
    body(slice, first, end);
  }
}

// Between dispatch and combine.
void MixtureOfExperts::experts_forward(ExecutionContext& ctx, const ExpertRows& e) const {
  const RowGroups groups = groups_of(e);
  if (e.gate_up.defined() || !gate_up_.forward_grouped_gate_up(ctx, e.activated, e.rows, groups)) {
    ArenaScope workspace(*ctx.workspace);
    const Tensor gate_up = e.gate_up.defined() ? e.gate_up : workspace.take(dtype_, {e.rows.size(0), 2 * width_});
    gate_up_.forward_grouped(ctx, gate_up, e.rows, groups);
    grouped_swiglu(ctx, e.activated, gate_up.columns(0, width_), gate_up.columns(width_, 2 * width_), groups);
  }
  down_.forward_grouped(ctx, e.expert_out, e.activated, groups);
}

// Between the backward of combine and that of dispatch.
void MixtureOfExperts::experts_backward_input(ExecutionContext& ctx, const ExpertRows& e, const Tensor& d_rows) const {
  const RowGroups groups = groups_of(e);
  ArenaScope workspace(*ctx.workspace);
  const Tensor d_activated = workspace.take(dtype_, {e.rows.size(0), width_});
  down_.backward_input_grouped(ctx, d_activated, e.d_expert_out, groups, false);
  grouped_swiglu_backward(ctx, e.d_gate_up.columns(0, width_), e.d_gate_up.columns(width_, 2 * width_), d_activated,
                          e.gate_up.columns(0, width_), e.gate_up.columns(width_, 2 * width_), groups);
  gate_up_.backward_input_grouped(ctx, d_rows, e.d_gate_up, groups, false);
}

// A slice's forward, and its backward up to where experts_backward_input begins.
void MixtureOfExperts::slice_again(ExecutionContext& ctx, const ExpertRows& e, const Tensor& x, const Tensor& d_weight,
                                   const Tensor& d_out) const {
  dispatcher_->dispatch(ctx, e.rows, x, e.routing, e.route);
  experts_forward(ctx, e);
  dispatcher_->combine_backward(ctx, e.d_expert_out, d_weight, d_out, e.expert_out, e.routing.expert_weight, e.route);
}

void MixtureOfExperts::experts_backward_weights(ExecutionContext& ctx, const ExpertRows& e) const {
  const RowGroups groups = groups_of(e);
  down_.backward_weights_grouped(ctx, e.d_expert_out, e.activated, groups);
  gate_up_.backward_weights_grouped(ctx, e.d_gate_up, e.rows, groups);
}

void MixtureOfExperts::forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
                               Record* record) const {
  forward_all(ctx, forward, out, x, {}, record);
}

void MixtureOfExperts::forward_all(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out,
                                   const Tensor& x, const Tensor& residual, Record* record) const {
  const int64_t tokens = x.size(0);
  ArenaScope workspace(*ctx.workspace);
  std::optional<Saved> temporary;
  if (record == nullptr) temporary.emplace(*this, *ctx.workspace, *ctx.workspace, tokens);
  Saved& s = record == nullptr ? *temporary : static_cast<Saved&>(*record);
  const Routing& routing = s.experts.routing;

  {
    ArenaScope scratch(*ctx.workspace);
    const Tensor logits = scratch.take(DType::kF32, {tokens, options_.experts});
    if (!router_.forward_widened(ctx, logits, x)) {
      ArenaScope of_rows(*ctx.workspace);
      const Tensor wide = of_rows.take(DType::kF32, {tokens, hidden_});
      convert(ctx, wide, x);
      router_.forward(ctx, logits, wide);
    }
    RouteRecord* record_of_routes = forward.routes;
    if (record_of_routes != nullptr && record_of_routes->replay) {
      copy(ctx, routing.expert_index, record_of_routes->expert_index[layer_]);
      route_as_recorded(ctx, routing, logits, options_);
    } else {
      route(ctx, routing, logits, bias_ == nullptr ? Tensor() : bias_->value, options_);
      if (record_of_routes != nullptr) copy(ctx, record_of_routes->expert_index[layer_], routing.expert_index);
    }
  }
  if (forward.auxiliary != nullptr) {
    accumulate_counts(ctx, forward.auxiliary->expert_load(layer_), routing.counts);
    if (auxiliary_weight_ > 0) {
      sequence_auxiliary_loss(ctx, forward.auxiliary->balance_loss(layer_), {}, routing, forward.batch.balance_offset,
                              options_, auxiliary_weight_, nullptr);
    }
  }
  // Without a record nothing is lost between slices, so that rows never overflow.
  const bool in_slices =
      forward.experts_in_slices || (record == nullptr && dispatcher_->tokens_that_fit(tokens) < tokens);
  // Rows are on their way beside the shared experts.
  if (!in_slices) dispatcher_->begin_dispatch(ctx, s.experts.rows, x, routing, s.experts.route);
  if (shared_) shared_->forward(ctx, forward, out, x, s.shared.get());
  const auto run = [&](const ExpertRows& e, const Tensor& to, const Tensor& onto) {
    experts_forward(ctx, e);
    const Tensor addend = shared_ ? to : Tensor();
    if (onto.defined()) {
      dispatcher_->combine_onto(ctx, to, e.expert_out, e.routing.expert_weight, addend, onto, e.route);
    } else {
      dispatcher_->combine(ctx, to, e.expert_out, e.routing.expert_weight, addend, e.route);
    }
  };
  if (in_slices) {
    for_slices(ctx, s.experts, [&](const ExpertRows& e, int64_t first, int64_t end) {
      dispatcher_->dispatch(ctx, e.rows, x.rows(first, end), e.routing, e.route);
      run(e, out.rows(first, end), residual.defined() ? residual.rows(first, end) : Tensor());
    });
  } else {
    dispatcher_->finish(ctx);
    run(s.experts, out, residual);
  }
}

// Few tokens are one op where the device has it.
void MixtureOfExperts::forward_onto(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out,
                                    const Tensor& x, const Tensor& residual) const {
  if (dispatcher_->all_experts_here() && forward.routes == nullptr && forward.auxiliary == nullptr) {
    ArenaScope workspace(*ctx.workspace);
    const int64_t tokens = x.size(0);
    const Routing routing{.expert_index = workspace.take(DType::kI32, {tokens, options_.top_k}),
                          .expert_weight = workspace.take(DType::kF32, {tokens, options_.top_k}),
                          .scores = workspace.take(DType::kF32, {tokens, options_.experts}),
                          .counts = workspace.take(DType::kI32, {options_.experts})};
    const MixtureWeights weights{.router = &router_.weight(),
                                 .bias = bias_ == nullptr ? Tensor() : bias_->value,
                                 .gate_up = &gate_up_.weight(),
                                 .down = &down_.weight(),
                                 .shared_gate_up = shared_ ? &shared_->gate_up() : nullptr,
                                 .shared_down = shared_ ? &shared_->down() : nullptr};
    if (mixture_of_few(ctx, out, x, residual, routing, weights, options_)) return;
  }
  forward_all(ctx, forward, out, x, residual, nullptr);
}

void MixtureOfExperts::recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& x,
                                 Record& record) const {
  const Saved& s = static_cast<Saved&>(record);
  if (shared_) shared_->recompute(ctx, forward, x, *s.shared);
  if (forward.experts_in_slices) return;  // what a slice left is gone: its backward works all of it out again
  const ExpertRows& e = s.experts;
  if (dispatcher_->can_dispatch_again()) dispatcher_->dispatch_again(ctx, e.rows, x, e.route);
  grouped_swiglu(ctx, e.activated, e.gate_up.columns(0, width_), e.gate_up.columns(width_, 2 * width_), groups_of(e));
}

void MixtureOfExperts::backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x,
                                      const Tensor& d_out, const Tensor& x, Record& record) const {
  const int64_t tokens = x.size(0);
  Saved& s = static_cast<Saved&>(record);
  ArenaScope workspace(*ctx.workspace);
  const Tensor d_weight = workspace.take(DType::kF32, {tokens, options_.top_k});
  if (!forward.experts_in_slices) {
    const ExpertRows& e = s.experts;
    dispatcher_->begin_combine_backward(ctx, e.d_expert_out, d_weight, d_out, e.expert_out, e.routing.expert_weight,
                                        e.route);
  }
  if (shared_) shared_->backward_input(ctx, forward, d_x, d_out, x, *s.shared);
  const auto run = [&](const ExpertRows& e, const Tensor& d_tokens) {
    ArenaScope of_rows(*ctx.workspace);
    const Tensor d_rows = of_rows.take(dtype_, {e.rows.size(0), hidden_});
    experts_backward_input(ctx, e, d_rows);
    dispatcher_->dispatch_backward(ctx, d_tokens, d_rows, shared_ ? d_tokens : Tensor(), e.route);
  };
  if (forward.experts_in_slices) {
    for_slices(ctx, s.experts, [&](const ExpertRows& e, int64_t first, int64_t end) {
      slice_again(ctx, e, x.rows(first, end), d_weight.rows(first, end), d_out.rows(first, end));
      run(e, d_x.rows(first, end));
    });
  } else {
    dispatcher_->finish(ctx);
    run(s.experts, d_x);
  }

  Tensor d_scores;
  if (auxiliary_weight_ > 0 && forward.auxiliary != nullptr) {
    d_scores = workspace.take(DType::kF32, {tokens, options_.experts});
    fill_zero(ctx, d_scores);
    // The forward has counted the loss.
    sequence_auxiliary_loss(ctx, nullptr, d_scores, s.experts.routing, forward.batch.balance_offset, options_,
                            auxiliary_weight_, &ctx.state->in.token_scale);
  }
  route_backward(ctx, s.d_logits, d_weight, d_scores, s.experts.routing, options_);
  router_.backward_input(ctx, d_x, s.d_logits, true);
}

void MixtureOfExperts::experts_backward_weights_of_both(ExecutionContext& ctx, const ExpertRows& first,
                                                        const ExpertRows& second) const {
  const RowGroups of_first = groups_of(first), of_second = groups_of(second);
  down_.backward_weights_of_both(ctx, {first.d_expert_out, first.activated, of_first},
                                 {second.d_expert_out, second.activated, of_second});
  gate_up_.backward_weights_of_both(ctx, {first.d_gate_up, first.rows, of_first},
                                    {second.d_gate_up, second.rows, of_second});
}

void MixtureOfExperts::backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out,
                                        const Tensor& x, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  if (forward.experts_in_slices) {
    for_slices(ctx, s.experts, [&](const ExpertRows& e, int64_t first, int64_t end) {
      ArenaScope workspace(*ctx.workspace);
      const Tensor d_rows = workspace.take(dtype_, {e.rows.size(0), hidden_});
      const Tensor d_weight = workspace.take(DType::kF32, {end - first, options_.top_k});
      slice_again(ctx, e, x.rows(first, end), d_weight, d_out.rows(first, end));
      experts_backward_input(ctx, e, d_rows);
      experts_backward_weights(ctx, e);
    });
  } else if (forward.paired.waiting == nullptr) {
    experts_backward_weights(ctx, s.experts);
  } else if (forward.paired.first) {
    (*forward.paired.waiting)[layer_] = &record;
  } else {
    const Record& before = *forward.paired.waiting->at(layer_);
    experts_backward_weights_of_both(ctx, static_cast<const Saved&>(before).experts, s.experts);
  }
  if (shared_) shared_->backward_weights(ctx, forward, d_out, x, *s.shared);
  ArenaScope workspace(*ctx.workspace);
  const Tensor wide = workspace.take(DType::kF32, {x.size(0), hidden_});
  convert(ctx, wide, x);
  router_.backward_weights(ctx, s.d_logits, wide);
}

}  // namespace deeptitan

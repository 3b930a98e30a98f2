#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/arena.h"
#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/moe.h"
#include "ops/row_groups.h"

namespace deeptitan {

struct RankExchange;

/// Brings token rows to their experts and back. T tokens, D hidden, K experts a token, R rows that there is room for
/// here, e experts of this rank. What a dispatch decided stays in a Route until the backward has used it. Layers are
/// given one (ModelOptions::make_dispatcher) and know no kind of it.
class TokenDispatcher {
 public:
  struct Route {
    SlotOrder order;                                   // this rank's slots by expert
    std::shared_ptr<RankExchange> exchange = nullptr;  // what goes to other ranks and comes from them, where some does
    // Where other ranks' kernels write and read rows (OnDeviceDispatcher); else undefined.
    Tensor place = {};         // i32 [T, K]: rank * R + row
    Tensor row_weight = {};    // f32 [R]: the weights of the rows here
    Tensor d_row_weight = {};  // f32 [R]
  };

  virtual ~TokenDispatcher() = default;

  /// Rows that may arrive here when each rank dispatches `tokens` tokens.
  virtual int64_t most_rows(int64_t tokens) const = 0;
  /// Rows that there is room for then: R. Where it is less than most_rows, a dispatch of more sets
  /// StepOutput::row_overflow and brings no rows; the step is run again in slices of tokens that fit.
  virtual int64_t capacity(int64_t tokens) const { return most_rows(tokens); }
  /// Whether its work on so many tokens can be part of a captured graph: nothing is read back, and nothing waits for
  /// the host.
  virtual bool can_be_captured(int64_t tokens) const = 0;
  /// Whether no token leaves its rank, so that the experts may take tokens where they lie.
  virtual bool all_experts_here() const { return false; }
  /// For a dispatch of `tokens` tokens into `rows` rows.
  virtual Route make_route(Arena& arena, int64_t tokens, int64_t rows) const = 0;

  /// Where each local expert's rows lie once dispatched.
  virtual RowGroups groups(const Routing& routing, const Route& route) const = 0;

  /// rows = the tokens of the experts here, contiguous per expert.
  virtual void dispatch(ExecutionContext& ctx, const Tensor& rows /* [R, D] */, const Tensor& x /* [T, D] */,
                        const Routing& routing, const Route& route) const = 0;
  /// The same, but what is computed before finish() may be beside it: it reads x, and touches nothing else of it.
  virtual void begin_dispatch(ExecutionContext& ctx, const Tensor& rows /* [R, D] */, const Tensor& x /* [T, D] */,
                              const Routing& routing, const Route& route) const {
    dispatch(ctx, rows, x, routing, route);
  }
  /// What is computed from here on comes after what was begun.
  virtual void finish(ExecutionContext& /*ctx*/) const {}
  /// Whether dispatch_again can be asked for: it costs no exchange between ranks.
  virtual bool can_dispatch_again() const { return false; }
  /// rows = those that the dispatch brought which has filled the route.
  virtual void dispatch_again(ExecutionContext& ctx, const Tensor& rows /* [R, D] */, const Tensor& x /* [T, D] */,
                              const Route& route) const;
  /// d_x = the sum over a token's rows of their gradients.
  virtual void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x /* [T, D] */,
                                 const Tensor& d_rows /* [R, D] */, const Tensor& addend /* [T, D], undefined: none */,
                                 const Route& route) const = 0;
  /// out[t] = sum over k of weight[t, k] * rows[of slot (t, k)] + addend[t], in fp32, in the order of k.
  virtual void combine(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& rows /* [R, D] */,
                       const Tensor& weight /* f32 [T, K] */, const Tensor& addend /* [T, D], undefined: none */,
                       const Route& route) const = 0;
  /// out = residual + combine, which is rounded first.
  virtual void combine_onto(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& rows /* [R, D] */,
                            const Tensor& weight /* f32 [T, K] */, const Tensor& addend /* [T, D], undefined: none */,
                            const Tensor& residual /* [T, D] */, const Route& route) const;
  virtual void combine_backward(ExecutionContext& ctx, const Tensor& d_rows /* [R, D] */,
                                const Tensor& d_weight /* f32 [T, K] */, const Tensor& d_out /* [T, D] */,
                                const Tensor& rows /* [R, D] */, const Tensor& weight /* f32 [T, K] */,
                                const Route& route) const = 0;

  /// The same, as begin_dispatch: until finish() nothing else touches d_rows and d_weight.
  virtual void begin_combine_backward(ExecutionContext& ctx, const Tensor& d_rows /* [R, D] */,
                                      const Tensor& d_weight /* f32 [T, K] */, const Tensor& d_out /* [T, D] */,
                                      const Tensor& rows /* [R, D] */, const Tensor& weight /* f32 [T, K] */,
                                      const Route& route) const {
    combine_backward(ctx, d_rows, d_weight, d_out, rows, weight, route);
  }

  /// The most of `tokens` tokens whose rows are sure to fit into capacity(tokens). Throws where not even one's are.
  int64_t tokens_that_fit(int64_t tokens) const;
};

/// All experts on this rank: a sort by expert and two gathers.
class LocalDispatcher final : public TokenDispatcher {
 public:
  /// Each expert's rows begin at a multiple of `alignment`.
  LocalDispatcher(int64_t experts, int64_t top_k, int64_t alignment = 1)
      : experts_(experts), top_k_(top_k), alignment_(alignment) {}

  int64_t most_rows(int64_t tokens) const override;
  bool can_be_captured(int64_t /*tokens*/) const override { return true; }
  bool all_experts_here() const override { return true; }
  RowGroups groups(const Routing& /*routing*/, const Route& route) const override {
    return {.offsets = route.order.group_offset,
            .sizes = route.order.group_size,
            .capacity = route.order.slot_of_row.size(0),
            .alignment = alignment_};
  }
  Route make_route(Arena& arena, int64_t tokens, int64_t rows) const override {
    return {{arena.take(DType::kI32, {tokens * top_k_}), arena.take(DType::kI32, {rows}),
             arena.take(DType::kI32, {experts_ + 1}), arena.take(DType::kI32, {experts_})}};
  }
  void dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                const Route& route) const override {
    sort_slots(ctx, route.order, routing, static_cast<int>(alignment_));
    permute_rows(ctx, rows, x, route.order);
  }
  bool can_dispatch_again() const override { return true; }
  void dispatch_again(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Route& route) const override {
    permute_rows(ctx, rows, x, route.order);
  }
  void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows, const Tensor& addend,
                         const Route& route) const override {
    unpermute_rows(ctx, d_x, d_rows, {}, addend, {}, route.order);
  }
  void combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Route& route) const override {
    unpermute_rows(ctx, out, rows, weight, addend, {}, route.order);
  }
  void combine_onto(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight,
                    const Tensor& addend, const Tensor& residual, const Route& route) const override {
    unpermute_rows(ctx, out, rows, weight, addend, residual, route.order);
  }
  void combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                        const Tensor& rows, const Tensor& weight, const Route& route) const override {
    unpermute_rows_backward(ctx, d_rows, d_weight, d_out, rows, weight, route.order);
  }

 private:
  int64_t experts_;
  int64_t top_k_;
  int64_t alignment_;
};

/// Makes the dispatcher of a layer with such a router.
using MakeDispatcher = std::function<std::unique_ptr<TokenDispatcher>(const RouterOptions& router)>;

/// All experts on this rank.
inline std::unique_ptr<TokenDispatcher> make_local_dispatcher(const RouterOptions& router) {
  return std::make_unique<LocalDispatcher>(router.experts, router.top_k);
}

}  // namespace deeptitan

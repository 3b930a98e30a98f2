#pragma once

#include <functional>
#include <memory>

#include "model/moe/token_dispatcher.h"

namespace deeptitan::testing {

/// All experts on this rank, with room for other than the most rows: for more, so that padding stands behind the last
/// group, or for fewer, so that rows may overflow.
class DispatcherWithRoom final : public TokenDispatcher {
 public:
  using Room = std::function<int64_t(int64_t most_rows)>;

  DispatcherWithRoom(const RouterOptions& router, int64_t alignment, Room room)
      : local_(router.experts, router.top_k, alignment), room_(std::move(room)) {}

  int64_t most_rows(int64_t tokens) const override { return local_.most_rows(tokens); }
  int64_t capacity(int64_t tokens) const override { return room_(most_rows(tokens)); }
  bool can_be_captured(int64_t /*tokens*/) const override { return false; }
  Route make_route(Arena& arena, int64_t tokens, int64_t rows) const override {
    return local_.make_route(arena, tokens, rows);
  }
  RowGroups groups(const Routing& routing, const Route& route) const override { return local_.groups(routing, route); }
  void dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                const Route& route) const override {
    local_.dispatch(ctx, rows, x, routing, route);
  }
  bool can_dispatch_again() const override { return local_.can_dispatch_again(); }
  void dispatch_again(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Route& route) const override {
    local_.dispatch_again(ctx, rows, x, route);
  }
  void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows, const Tensor& addend,
                         const Route& route) const override {
    local_.dispatch_backward(ctx, d_x, d_rows, addend, route);
  }
  void combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Route& route) const override {
    local_.combine(ctx, out, rows, weight, addend, route);
  }
  void combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                        const Tensor& rows, const Tensor& weight, const Route& route) const override {
    local_.combine_backward(ctx, d_rows, d_weight, d_out, rows, weight, route);
  }

 private:
  LocalDispatcher local_;
  Room room_;
};

inline MakeDispatcher dispatcher_with_room(int64_t alignment, const DispatcherWithRoom::Room& room) {
  return [=](const RouterOptions& router) { return std::make_unique<DispatcherWithRoom>(router, alignment, room); };
}

}  // namespace deeptitan::testing

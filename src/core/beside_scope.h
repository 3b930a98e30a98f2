#pragma once

#include <utility>

#include "core/execution_context.h"

namespace deeptitan {

/// What is queued while it lives may run beside what is queued after it, until join_beside: it begins after all that
/// was queued before, and has workspace of its own. What both write must be apart, and what one writes the other must
/// not read. Without a second stream, and where ops are timed or looked at one by one, all runs in order.
class BesideScope {
 public:
  explicit BesideScope(ExecutionContext& ctx) : ctx_(ctx) {
    if (ctx_.beside_workspace == nullptr) return;
    beside_ = runs_beside(ctx_);
    if (beside_) order(ctx_, ctx_.compute, ctx_.beside);
    swap();
  }
  ~BesideScope() {
    if (ctx_.beside_workspace != nullptr) swap();
  }
  BesideScope(const BesideScope&) = delete;
  BesideScope& operator=(const BesideScope&) = delete;

  /// What is queued from here on comes after all that was queued beside it.
  static void join(ExecutionContext& ctx) {
    if (ctx.beside_workspace != nullptr && runs_beside(ctx)) order(ctx, ctx.beside, ctx.compute);
  }

 private:
  static bool runs_beside(const ExecutionContext& ctx) {
    return ctx.beside.native() != nullptr && !ctx.planning && ctx.profile == nullptr && !ctx.check_finite;
  }
  static void order(const ExecutionContext& ctx, const Stream& before, const Stream& after) {
    Event done(ctx.device);
    done.record(before);
    done.make_wait(after);
  }
  void swap() {
    std::swap(ctx_.workspace, ctx_.beside_workspace);
    if (beside_) std::swap(ctx_.compute, ctx_.beside);
  }

  ExecutionContext& ctx_;
  bool beside_ = false;
};

}  // namespace deeptitan

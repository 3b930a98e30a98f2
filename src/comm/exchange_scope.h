#pragma once

#include "core/execution_context.h"

namespace deeptitan {

/// What is exchanged while it lives comes after all that was computed before, and all that is computed later comes
/// after it. Nothing on the CPU, where work is done when a call returns.
class ExchangeScope {
 public:
  explicit ExchangeScope(ExecutionContext& ctx) : ctx_(ctx) { order(ctx.compute, ctx.communication); }
  ~ExchangeScope() { order(ctx_.communication, ctx_.compute); }
  ExchangeScope(const ExchangeScope&) = delete;
  ExchangeScope& operator=(const ExchangeScope&) = delete;

 private:
  void order(const Stream& before, const Stream& after) const {
    if (ctx_.planning || ctx_.device.kind == DeviceKind::kCpu) return;
    Event done(ctx_.device);
    done.record(before);
    done.make_wait(after);
  }

  ExecutionContext& ctx_;
};

}  // namespace deeptitan

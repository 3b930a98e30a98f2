#pragma once

#include "core/execution_context.h"

namespace deeptitan {

/// What is queued in `after` from now on comes after all that is queued in `before`. Nothing on the CPU, where work is
/// done when a call returns.
inline void order_streams(const ExecutionContext& ctx, const Stream& before, const Stream& after) {
  if (ctx.planning || ctx.device.kind == DeviceKind::kCpu) return;
  Event done(ctx.device);
  done.record(before);
  done.make_wait(after);
}

/// What is exchanged from here on comes after all that was computed before.
inline void begin_exchange(const ExecutionContext& ctx) {
  order_streams(ctx, ctx.compute, ctx.communication);
}

/// What is computed from here on comes after all that was exchanged before. In between both go on beside each other.
inline void end_exchange(const ExecutionContext& ctx) {
  order_streams(ctx, ctx.communication, ctx.compute);
}

/// Both, around what is exchanged while it lives.
class ExchangeScope {
 public:
  explicit ExchangeScope(ExecutionContext& ctx) : ctx_(ctx) { begin_exchange(ctx); }
  ~ExchangeScope() { end_exchange(ctx_); }
  ExchangeScope(const ExchangeScope&) = delete;
  ExchangeScope& operator=(const ExchangeScope&) = delete;

 private:
  ExecutionContext& ctx_;
};

}  // namespace deeptitan

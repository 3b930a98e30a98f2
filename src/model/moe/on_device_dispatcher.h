#pragma once

#include <cstdint>

#include "comm/peer_memory.h"
#include "model/moe/token_dispatcher.h"

namespace deeptitan {

/// The experts are shared out to the ranks of a group whose kernels reach each other's memory. A dispatch writes each
/// token's row where its experts are, in the place that it has in their groups; a combine reads the experts' outputs
/// from there, weights and adds them. Counts never leave the device, so that it is captured; rows lie nowhere in
/// between. The tensors between dispatch and combine lie in that memory (PeerMemory), which the engine's arenas adopt.
///
/// Where a rank has room for less than the worst case and more would come to any, all know it from the counts, none
/// sends, and the step overflows. Rows have the places and the bits of AllToAllDispatcher.
class OnDeviceDispatcher final : public TokenDispatcher {
 public:
  /// `room`: rows that there is room for, in means; 0 is the worst case.
  OnDeviceDispatcher(PeerMemory& memory, const RouterOptions& router, double room = 0);

  int64_t most_rows(int64_t tokens) const override;
  int64_t capacity(int64_t tokens) const override;
  bool can_be_captured(int64_t /*tokens*/) const override { return true; }
  RowGroups groups(const Routing& routing, const Route& route) const override;
  Route make_route(Arena& arena, int64_t tokens, int64_t rows) const override;
  void dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                const Route& route) const override;
  void begin_dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                      const Route& route) const override;
  void finish(ExecutionContext& ctx) const override;
  void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows, const Tensor& addend,
                         const Route& route) const override;
  void combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Route& route) const override;
  void combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                        const Tensor& rows, const Tensor& weight, const Route& route) const override;
  void begin_combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                              const Tensor& rows, const Tensor& weight, const Route& route) const override;

 private:
  ExecutionContext beside(const ExecutionContext& ctx) const;
  void pull(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
            const Route& route) const;
  void plan(const ExecutionContext& ctx, const Tensor& x) const;

  PeerMemory& memory_;
  int64_t experts_;  // of this rank
  int64_t top_k_;
  double room_;
};

/// Makes such dispatchers; the memory outlives them.
MakeDispatcher make_on_device_dispatcher(PeerMemory& memory, double room = 0);

}  // namespace deeptitan

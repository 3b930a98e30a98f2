#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/execution_context.h"
#include "core/tensor.h"

namespace deeptitan {

/// A group of ranks that exchange tensors. All ranks of a group call the same collectives in the same order, with the
/// same shapes and dtypes. Tensors are contiguous and lie on the context's device; nothing is exchanged while the
/// context plans. On a GPU the exchange is queued on `ctx.communication`, and the caller orders it against
/// `ctx.compute` with events; on the CPU it is done when the call returns. A rank that waits longer than the group's
/// deadline throws Error that names the operation, the step and the ranks that it waits for.
class Communicator {
 public:
  virtual ~Communicator() = default;

  /// This process's place in the group, and how many there are.
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// What the group is called in messages: "ep", "dp", "pp", "world".
  virtual const std::string& name() const = 0;

  /// x = the sum of all ranks' x, each element added in the order of the ranks. f32, f64 or i32; the same bits on all.
  virtual void all_reduce(ExecutionContext& ctx, const Tensor& x) = 0;
  /// Part r of `parts` (elements; as many as ranks; together x) is added up on rank r, in the order of the ranks, and
  /// left in its place in x. The other parts of x are undefined afterwards. f32.
  virtual void reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) = 0;
  /// The inverse: part r of x comes from rank r.
  virtual void all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) = 0;
  /// Rows of `send` go to the ranks in order, send_rows[r] of them to rank r; `receive` takes receive_rows[r] from rank
  /// r. Both say rows of the same width; what lies behind the last row of either is left alone.
  virtual void all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                          const Tensor& send, std::span<const int64_t> send_rows) = 0;
  virtual void send(ExecutionContext& ctx, const Tensor& x, int to) = 0;
  virtual void receive(ExecutionContext& ctx, const Tensor& x, int from) = 0;
  /// x on all ranks = x of rank `root`.
  virtual void broadcast(ExecutionContext& ctx, const Tensor& x, int root) = 0;
  /// Returns when all ranks have called it.
  virtual void barrier(ExecutionContext& ctx) = 0;
};

}  // namespace deeptitan

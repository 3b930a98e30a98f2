#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/execution_context.h"
#include "core/tensor.h"

namespace deeptitan {

/// What may be the matter with a rank that others have waited for, at the end of their messages.
inline constexpr std::string_view kWhyRanksAreLate =
    "it has stopped, hangs, or has more to do than parallelism.deadline_seconds (--deadline) allows";

/// A group of ranks that exchange tensors. All ranks of a group call the same collectives in the same order, with the
/// same shapes and dtypes. Tensors are contiguous and lie on the context's device; nothing is exchanged while the
/// context plans. On a GPU the exchange is queued on `ctx.communication`, and the caller orders it against
/// `ctx.compute` with events; on the CPU it is done when the call returns. A rank that waits longer than the group's
/// deadline throws Error that names the operation, the step and the ranks that it waits for; the group is of no use
/// from then on.
class Communicator {
 public:
  virtual ~Communicator() = default;

  /// This process's place in the group, and how many there are.
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// What the group is called in messages: "ep", "dp", "pp", "world".
  virtual const std::string& name() const = 0;
  /// How long a rank waits for another, in seconds. A barrier before which one rank has much to do takes more.
  virtual double deadline() const = 0;
  virtual void set_deadline(double seconds) = 0;

  /// Bytes that this rank has been planned to send to others: what it was asked to exchange while contexts planned.
  /// Rows of an all_to_all count as if they were spread evenly.
  int64_t planned_bytes() const { return planned_bytes_; }
  /// Bytes of memory that sums take beside what they add, where contexts have planned some.
  int64_t planned_staging() const { return sums_planned_ ? staging_bytes() : 0; }

  /// x = the sum of all ranks' x, each element added in the order of the ranks. f32, f64 or i32; the same bits on all.
  void all_reduce(ExecutionContext& ctx, const Tensor& x);
  /// Part r of `parts` (elements; as many as ranks; together x) is added up on rank r, in the order of the ranks, and
  /// left in its place in x. The other parts of x are undefined afterwards. f32.
  void reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts);
  /// The inverse: part r of x comes from rank r. Any dtype.
  void all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts);
  /// Rows of `send` go to the ranks in order, send_rows[r] of them to rank r; `receive` takes receive_rows[r] from rank
  /// r. Both say rows of the same width; what lies behind the last row of either is left alone. Any dtype.
  void all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                  const Tensor& send, std::span<const int64_t> send_rows);
  /// Begins to send x and returns at once, so that two ranks may send to each other before either receives. x stays as
  /// it is until finish_sends. What one rank sends to another arrives in order. Any dtype.
  void send(ExecutionContext& ctx, const Tensor& x, int to);
  /// Returns when x, which `send` was given (the same tensor), may be written again.
  void finish_send(ExecutionContext& ctx, const Tensor& x);
  /// The same for all that was sent.
  void finish_sends(ExecutionContext& ctx);
  void receive(ExecutionContext& ctx, const Tensor& x, int from);
  /// x on all ranks = x of rank `root`. Any dtype.
  void broadcast(ExecutionContext& ctx, const Tensor& x, int root);
  /// Returns when all ranks have called it.
  void barrier(ExecutionContext& ctx);
  /// To be called when a graph was queued in which ranks exchange something: where it does not end, that is named.
  virtual void queued_graph(ExecutionContext& /*ctx*/) {}

 private:
  // Called with arguments that were checked, never while planning, never with nothing to exchange but for run_barrier.
  virtual void run_all_reduce(ExecutionContext& ctx, const Tensor& x) = 0;
  virtual void run_reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) = 0;
  virtual void run_all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) = 0;
  virtual void run_all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                              const Tensor& send, std::span<const int64_t> send_rows) = 0;
  virtual void run_send(ExecutionContext& ctx, const Tensor& x, int to) = 0;
  virtual void run_finish_sends(ExecutionContext& ctx, const Tensor& x) = 0;  // x undefined: all
  virtual void run_receive(ExecutionContext& ctx, const Tensor& x, int from) = 0;
  virtual void run_broadcast(ExecutionContext& ctx, const Tensor& x, int root) = 0;
  virtual void run_barrier(ExecutionContext& ctx) = 0;

  virtual int64_t staging_bytes() const { return 0; }
  // `bytes` go to all ranks in equal parts, one of which stays here.
  void plan_parts(int64_t bytes) { planned_bytes_ += bytes - bytes / size(); }

  int64_t planned_bytes_ = 0;
  bool sums_planned_ = false;
};

}  // namespace deeptitan

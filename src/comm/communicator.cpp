#include "comm/communicator.h"

#include <algorithm>
#include <numeric>

#include <fmt/ranges.h>

#include "core/error.h"

namespace deeptitan {
namespace {

void check_exchanged(const Communicator& group, const char* op, const ExecutionContext& ctx, const Tensor& x) {
  DT_CHECK(x.contiguous(), "{} in group {}: expected a contiguous tensor, found {} with rows {} elements apart", op,
           group.name(), x.describe(), x.stride());
  DT_CHECK(x.device() == ctx.device, "{} in group {}: expected a tensor on {}, found {}", op, group.name(),
           device_name(ctx.device), x.describe());
}

void check_parts(const Communicator& group, const char* op, const Tensor& x, std::span<const int64_t> parts) {
  bool fit = static_cast<int>(parts.size()) == group.size();
  int64_t sum = 0;
  for (const int64_t part : parts) {
    fit = fit && part >= 0;
    sum += part;
  }
  DT_CHECK(fit && sum == x.numel(), "{} in group {}: {} ranks need as many parts, together {} elements; found [{}]", op,
           group.name(), group.size(), x.numel(), fmt::join(parts, ", "));
}

void check_rows(const Communicator& group, const char* what, const Tensor& x, std::span<const int64_t> rows) {
  bool fit = static_cast<int>(rows.size()) == group.size();
  int64_t sum = 0;
  for (const int64_t count : rows) {
    fit = fit && count >= 0;
    sum += count;
  }
  DT_CHECK(fit && sum <= x.size(0),
           "all_to_all in group {}: rows for {} ranks, at most {} together, are to be {}; found [{}]", group.name(),
           group.size(), x.size(0), what, fmt::join(rows, ", "));
}

void check_rank(const Communicator& group, const char* op, int rank) {
  DT_CHECK(rank >= 0 && rank < group.size(), "{} in group {}: rank {} of {}", op, group.name(), rank, group.size());
}

// A rank would wait for itself for ever.
void check_other_rank(const Communicator& group, const char* op, int rank) {
  check_rank(group, op, rank);
  DT_CHECK(rank != group.rank(), "{} in group {}: rank {} is this rank itself", op, group.name(), rank);
}

}  // namespace

void Communicator::all_reduce(ExecutionContext& ctx, const Tensor& x) {
  check_exchanged(*this, "all_reduce", ctx, x);
  const DType type = x.dtype();
  DT_CHECK(type == DType::kF32 || type == DType::kF64 || type == DType::kI32,
           "all_reduce in group {} adds f32, f64 and i32; found {}", name(), x.describe());
  sums_planned_ |= ctx.planning;
  if (ctx.planning) return plan_parts(2 * x.bytes());
  if (x.numel() > 0) run_all_reduce(ctx, x);
}

void Communicator::reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) {
  check_exchanged(*this, "reduce_scatter", ctx, x);
  check_parts(*this, "reduce_scatter", x, parts);
  DT_CHECK(x.dtype() == DType::kF32, "reduce_scatter in group {} adds f32; found {}", name(), x.describe());
  sums_planned_ |= ctx.planning;
  if (ctx.planning) return plan_parts(x.bytes());
  if (x.numel() > 0) run_reduce_scatter(ctx, x, parts);
}

void Communicator::all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) {
  check_exchanged(*this, "all_gather", ctx, x);
  check_parts(*this, "all_gather", x, parts);
  if (ctx.planning) return plan_parts(x.bytes());
  if (x.numel() > 0) run_all_gather(ctx, x, parts);
}

void Communicator::all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                              const Tensor& send, std::span<const int64_t> send_rows) {
  check_exchanged(*this, "all_to_all", ctx, receive);
  check_exchanged(*this, "all_to_all", ctx, send);
  check_rows(*this, "received", receive, receive_rows);
  check_rows(*this, "sent", send, send_rows);
  DT_CHECK(receive.dtype() == send.dtype() && receive.row_numel() == send.row_numel(),
           "all_to_all in group {}: expected rows of one width and dtype, found {} sent and {} received", name(),
           send.describe(), receive.describe());
  DT_CHECK(send_rows[rank()] == receive_rows[rank()],
           "all_to_all in group {}: rank {} sends itself {} rows and receives {} of them", name(), rank(),
           send_rows[rank()], receive_rows[rank()]);
  if (!ctx.planning) return run_all_to_all(ctx, receive, receive_rows, send, send_rows);
  // While planning one side may say the most that could come; as much goes as comes.
  const int64_t rows = std::min(std::accumulate(send_rows.begin(), send_rows.end(), int64_t{0}),
                                std::accumulate(receive_rows.begin(), receive_rows.end(), int64_t{0}));
  plan_parts(rows * send.row_numel() * static_cast<int64_t>(dtype_size(send.dtype())));
}

void Communicator::send(ExecutionContext& ctx, const Tensor& x, int to) {
  check_exchanged(*this, "send", ctx, x);
  check_other_rank(*this, "send", to);
  if (ctx.planning) {
    planned_bytes_ += x.bytes();
  } else if (x.numel() > 0) {
    run_send(ctx, x, to);
  }
}

void Communicator::finish_send(ExecutionContext& ctx, const Tensor& x) {
  if (!ctx.planning && x.defined()) run_finish_sends(ctx, x);
}

void Communicator::finish_sends(ExecutionContext& ctx) {
  if (!ctx.planning) run_finish_sends(ctx, {});
}

void Communicator::receive(ExecutionContext& ctx, const Tensor& x, int from) {
  check_exchanged(*this, "receive", ctx, x);
  check_other_rank(*this, "receive", from);
  if (!ctx.planning && x.numel() > 0) run_receive(ctx, x, from);
}

void Communicator::broadcast(ExecutionContext& ctx, const Tensor& x, int root) {
  check_exchanged(*this, "broadcast", ctx, x);
  check_rank(*this, "broadcast", root);
  if (!ctx.planning && x.numel() > 0) run_broadcast(ctx, x, root);
}

void Communicator::barrier(ExecutionContext& ctx) {
  if (!ctx.planning) run_barrier(ctx);
}

}  // namespace deeptitan

#include "ops/expert_rows.h"

#include "core/error.h"

namespace deeptitan {
namespace {

// What is multiplied by weights and read or written elsewhere costs what it moves.
double row_bytes(const Tensor& place, const Tensor& x) {
  return static_cast<double>(x.bytes()) +
         static_cast<double>(place.numel() * x.size(1)) * static_cast<double>(dtype_size(x.dtype()));
}

}  // namespace

void place_rows(ExecutionContext& ctx, const Tensor& place, const Tensor& group_offset, const Tensor& group_size,
                const Routing& routing, int64_t capacity, const PeerExchange& peers) {
  check_tensor(routing.expert_index, "place_rows: expert_index", DType::kI32, {-1, -1});
  check_tensor(routing.counts, "place_rows: counts", DType::kI32, {-1});
  check_tensor(place, "place_rows: place", DType::kI32, {routing.expert_index.size(0), routing.expert_index.size(1)});
  check_tensor(group_size, "place_rows: group_size", DType::kI32, {-1});
  check_tensor(group_offset, "place_rows: group_offset", DType::kI32, {group_size.size(0) + 1});
  check_contiguous("place_rows", {place, routing.expert_index});
  DT_CHECK(group_size.size(0) > 0 && routing.counts.size(0) % group_size.size(0) == 0,
           "place_rows: {} experts of this rank are no equal part of {}", group_size.size(0), routing.counts.size(0));
  OpScope op(ctx, "place_rows", {&place, &group_offset, &group_size}, {&routing.expert_index, &routing.counts});
  op.run_with_workspace(on_cpu::place_rows, DT_ON_CUDA(place_rows), place, group_offset, group_size, routing, capacity,
                        peers);
}

void meet_ranks(ExecutionContext& ctx, const PeerExchange& peers) {
  DT_CHECK(ctx.planning || peers.words != nullptr, "meet_ranks: the memory in which ranks meet is planned alone");
  OpScope op(ctx, "meet_ranks", {}, {});
  op.run(on_cpu::meet_ranks, DT_ON_CUDA(meet_ranks), peers);
}

void push_rows(ExecutionContext& ctx, const Tensor& rows, const Tensor& row_weight, const Tensor& x,
               const Tensor& weight, const Tensor& place, const PeerExchange& peers) {
  check_activation_type("push_rows: x", x);
  check_tensor(place, "push_rows: place", DType::kI32, {x.size(0), -1});
  check_tensor(rows, "push_rows: rows", x.dtype(), {-1, x.size(1)});
  DT_CHECK(row_weight.defined() == weight.defined(), "push_rows: weights need both ends, here and there");
  if (weight.defined()) {
    check_tensor(weight, "push_rows: weight", DType::kF32, {place.size(0), place.size(1)});
    check_tensor(row_weight, "push_rows: row_weight", DType::kF32, {rows.size(0)});
  }
  check_contiguous("push_rows", {rows, x, weight, place});
  OpScope op(ctx, "push_rows", {}, {&x, &weight, &place}, {.bytes = row_bytes(place, x)});
  op.run(on_cpu::push_rows, DT_ON_CUDA(push_rows), rows, row_weight, x, weight, place, peers);
}

void pull_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Tensor& place, const PeerExchange& peers) {
  check_activation_type("pull_rows: rows", rows);
  check_tensor(place, "pull_rows: place", DType::kI32, {-1, -1});
  check_tensor(rows, "pull_rows: rows", rows.dtype(), {-1, -1});
  check_tensor(out, "pull_rows: out", rows.dtype(), {place.size(0), rows.size(1)});
  if (weight.defined()) check_tensor(weight, "pull_rows: weight", DType::kF32, {place.size(0), place.size(1)});
  if (addend.defined()) check_tensor(addend, "pull_rows: addend", rows.dtype(), {out.size(0), out.size(1)});
  check_contiguous("pull_rows", {out, rows, weight, addend, place});
  OpScope op(ctx, "pull_rows", {&out}, {&weight, &addend, &place}, {.bytes = row_bytes(place, out)});
  op.run(on_cpu::pull_rows, DT_ON_CUDA(pull_rows), out, rows, weight, addend, place, peers);
}

void pull_values(ExecutionContext& ctx, const Tensor& out, const Tensor& values, const Tensor& place,
                 const PeerExchange& peers) {
  check_tensor(place, "pull_values: place", DType::kI32, {-1, -1});
  check_tensor(out, "pull_values: out", DType::kF32, {place.size(0), place.size(1)});
  check_tensor(values, "pull_values: values", DType::kF32, {-1});
  check_contiguous("pull_values", {out, place});
  OpScope op(ctx, "pull_values", {&out}, {&place});
  op.run(on_cpu::pull_values, DT_ON_CUDA(pull_values), out, values, place, peers);
}

void weight_rows_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& y,
                          const Tensor& weight, const Tensor& group_offset) {
  check_activation_type("weight_rows_backward: y", y);
  check_tensor(d_rows, "weight_rows_backward: d_rows", y.dtype(), {-1, y.size(1)});
  check_tensor(y, "weight_rows_backward: y", y.dtype(), {d_rows.size(0), -1});
  check_tensor(d_weight, "weight_rows_backward: d_weight", DType::kF32, {d_rows.size(0)});
  check_tensor(weight, "weight_rows_backward: weight", DType::kF32, {d_rows.size(0)});
  check_tensor(group_offset, "weight_rows_backward: group_offset", DType::kI32, {-1});
  check_contiguous("weight_rows_backward", {d_rows, y});
  OpScope op(ctx, "weight_rows_backward", {}, {&d_rows, &y, &weight, &group_offset});
  op.run(on_cpu::weight_rows_backward, DT_ON_CUDA(weight_rows_backward), d_rows, d_weight, y, weight, group_offset);
}

}  // namespace deeptitan

#include "ops/rank_sum.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "core/error.h"

namespace deeptitan {

void add_up_ranks(ExecutionContext& ctx, const Tensor& x, const PeerExchange& peers) {
  check_tensor(x, "add_up_ranks: x", DType::kF32, {-1});
  check_contiguous("add_up_ranks", {x});
  OpScope op(ctx, "add_up_ranks", {&x}, {}, {.bytes = static_cast<double>(x.bytes()) * (peers.window.n_ranks + 1)});
  op.run(on_cpu::add_up_ranks, DT_ON_CUDA(add_up_ranks), x, peers);
}

void fetch_parts(ExecutionContext& ctx, const Tensor& x, const Tensor& rounded, std::span<const int64_t> begin,
                 const PeerExchange& peers) {
  check_tensor(x, "fetch_parts: x", DType::kF32, {-1});
  if (rounded.defined()) check_tensor(rounded, "fetch_parts: rounded", DType::kF32, {x.size(0)});
  check_contiguous("fetch_parts", {x, rounded});
  DT_CHECK(!begin.empty() && begin.front() == 0 && begin.back() == x.size(0) &&
               std::is_sorted(begin.begin(), begin.end()) &&
               (ctx.planning || std::ssize(begin) == peers.window.n_ranks + 1),
           "fetch_parts: parts that begin at {} are not those of {} elements on {} ranks", fmt::join(begin, ", "),
           x.size(0), peers.window.n_ranks);
  OpScope op(ctx, "fetch_parts", {&x}, {&rounded}, {.bytes = static_cast<double>(x.bytes())});
  op.run(on_cpu::fetch_parts, DT_ON_CUDA(fetch_parts), x, rounded, begin, peers);
}

}  // namespace deeptitan

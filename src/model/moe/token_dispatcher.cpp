#include "model/moe/token_dispatcher.h"

#include <algorithm>

#include "core/error.h"
#include "ops/elementwise.h"

namespace deeptitan {

void TokenDispatcher::dispatch_again(ExecutionContext& /*ctx*/, const Tensor& /*rows*/, const Tensor& /*x*/,
                                     const Route& /*route*/) const {
  fail("this dispatcher cannot bring its rows again: they are to be kept");
}

void TokenDispatcher::combine_onto(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight,
                                   const Tensor& addend, const Tensor& residual, const Route& route) const {
  combine(ctx, out, rows, weight, addend, route);
  add(ctx, out, out, residual);
}

int64_t TokenDispatcher::tokens_that_fit(int64_t tokens) const {
  const int64_t rows = capacity(tokens);
  if (most_rows(tokens) <= rows) return tokens;
  int64_t fit = 0;  // rows grow with the tokens: between one count that fits and one that does not
  for (int64_t beyond = tokens; beyond - fit > 1;) {
    const int64_t middle = (fit + beyond) / 2;
    (most_rows(middle) <= rows ? fit : beyond) = middle;
  }
  DT_CHECK_USAGE(fit > 0,
                 "the experts have room for {} rows, and one token of each rank may need {}; raise "
                 "parallelism.expert_room",
                 rows, most_rows(1));
  return fit;
}

int64_t LocalDispatcher::most_rows(int64_t tokens) const {
  // Every expert that is chosen may need alignment - 1 rows of padding.
  const int64_t slots = tokens * top_k_;
  return (slots + std::min(slots, experts_) * (alignment_ - 1)) / alignment_ * alignment_;
}

}  // namespace deeptitan

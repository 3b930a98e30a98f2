#pragma once

#include <cstdint>

#include "kernels/token_choice.h"

namespace deeptitan::cpu {

/// chosen[r] = the token behind row r of logits [rows, vocab], ld_logits elements between rows, by choices[r]; -1 where
/// a logit is not finite, or no token may be chosen. `allowed` as choice_words says; `earlier` has such words for each
/// row, and is read where a choice has a penalty alone. A row's token depends on no other row; weights are integers, so
/// their sums have no order.
void choose_tokens(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                   const uint32_t* allowed, const uint32_t* earlier, int64_t rows, int64_t vocab);

}  // namespace deeptitan::cpu

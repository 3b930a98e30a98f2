#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "kernels/token_choice.h"
#include "ops/op_scope.h"

// R rows, V vocabulary.

namespace deeptitan {

inline constexpr int64_t kChoiceWords = sizeof(TokenChoice) / sizeof(int32_t);

/// chosen[r] = the token behind row r of logits, by a TokenChoice of its own; -1 where a logit is not finite, or no
/// token may be chosen. `allowed` has a bit for each token (choice_words), `earlier` such bits for each row, which say
/// which tokens a penalty is for; left out where no choice has one. The same tokens on every device.
void choose_tokens(ExecutionContext& ctx, const Tensor& chosen /* i32 [R] */, const Tensor& logits /* f32 [R, V] */,
                   const Tensor& choices /* i32 [R, words of a TokenChoice] */,
                   const Tensor& allowed /* i32 [V / 32, rounded up] */,
                   const Tensor& earlier = {} /* i32 [R, V / 32, rounded up] */);

DT_OP_FORMS(choose_tokens);

}  // namespace deeptitan

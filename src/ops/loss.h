#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/op_scope.h"

// T rows, V vocabulary. Losses in nats. A target of -1 bears no loss.

namespace deeptitan {

/// loss[t] = -log softmax(logits[t])[target[t]], and (where d_logits is defined) its gradient times *gradient_scale,
/// which lies where the op runs (StepInput).
void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss /* f32 [T] */, const Tensor& d_logits /* [T, V] */,
                           const Tensor& logits /* f32 [T, V] */, const Tensor& targets /* i32 [T] */,
                           const double* gradient_scale);

/// logprob[t] = log softmax(logits[t])[target[t]]; argmax[t] is the best token (undefined: not wanted).
void token_logprobs(ExecutionContext& ctx, const Tensor& logprob /* f32 [T] */, const Tensor& argmax /* i32 [T] */,
                    const Tensor& logits /* f32 [T, V] */, const Tensor& targets /* i32 [T] */);

/// sum += the sum of a vector, in a fixed order: losses are added up where they lie.
void accumulate_sum(ExecutionContext& ctx, const Tensor& sum /* f64 [1] */, const Tensor& x /* f32 [T] */);

DT_OP_FORMS(softmax_cross_entropy);
DT_OP_FORMS(token_logprobs);
DT_OP_FORMS(accumulate_sum);

}  // namespace deeptitan

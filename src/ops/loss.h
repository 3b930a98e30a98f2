#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"

// T rows, V vocabulary. Losses in nats. A target of -1 bears no loss.

namespace deeptitan {

/// loss[t] = -log softmax(logits[t])[target[t]], and (where d_logits is defined) its gradient times gradient_scale.
void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss /* f32 [T] */, const Tensor& d_logits /* [T, V] */,
                           const Tensor& logits /* f32 [T, V] */, const Tensor& targets /* i32 [T] */,
                           double gradient_scale);

/// logprob[t] = log softmax(logits[t])[target[t]]; argmax[t] is the best token (undefined: not wanted).
void token_logprobs(ExecutionContext& ctx, const Tensor& logprob /* f32 [T] */, const Tensor& argmax /* i32 [T] */,
                    const Tensor& logits /* f32 [T, V] */, const Tensor& targets /* i32 [T] */);

}  // namespace deeptitan

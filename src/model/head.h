#pragma once

#include "model/linear_layer.h"

namespace deeptitan {

/// The projection to the vocabulary and the cross-entropy behind it, in chunks of tokens: the full logits of a batch
/// never exist in training. T tokens, D hidden, V vocabulary.
class LanguageModelHead {
 public:
  explicit LanguageModelHead(LinearLayer projection, DType dtype) : projection_(projection), dtype_(dtype) {}

  int64_t vocab() const { return projection_.outputs(); }

  /// out = hidden W^T in fp32, for a few rows.
  void logits(ExecutionContext& ctx, const Tensor& out /* f32 [T, V] */, const Tensor& hidden /* [T, D] */) const;

  /// loss[t] = the cross-entropy of target[t] in nats (0 where it is -1). Where d_hidden is defined, also the gradients
  /// of *gradient_scale * sum(loss): d_hidden = or +=, and the projection's weight +=. The backward is part of the
  /// forward here, so that a chunk's logits are used while they are in the cache and never stored.
  void loss(ExecutionContext& ctx, const Tensor& loss /* f32 [T] */, const Tensor& d_hidden /* [T, D] */,
            const Tensor& hidden /* [T, D] */, const Tensor& targets /* i32 [T] */, const double* gradient_scale,
            bool accumulate) const;

  /// logprob[t] = the log-probability of target[t]; argmax[t] = the likeliest token.
  void logprobs(ExecutionContext& ctx, const Tensor& logprob /* f32 [T] */, const Tensor& argmax /* i32 [T] */,
                const Tensor& hidden /* [T, D] */, const Tensor& targets /* i32 [T] */) const;

 private:
  int64_t chunk_rows(const ExecutionContext& ctx, int64_t tokens) const;

  LinearLayer projection_;
  DType dtype_;
};

}  // namespace deeptitan

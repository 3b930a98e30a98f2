#pragma once

#include <memory>

#include "model/decoder_layer.h"
#include "model/head.h"

namespace deeptitan {

/// A next-token-prediction module (MTP, DeepSeek-V3 section 2.2): from the main model's state at token i and the
/// embedding of token i + 1 it predicts token i + 2. Embedding and head are the main model's.
///
///   x = eh_proj [enorm(embedding(t_{i+1})), hnorm(h_i)],  y = decoder_layer(x),  logits = head(norm(y))
///
/// h is the main model's state after its final norm, and the embedding comes first in the concatenation: so the
/// released weights are laid out and used (the paper's equation 21 writes the state first).
class NextTokenPrediction {
 public:
  NextTokenPrediction(ParameterList& parameters, const NextTokenPredictionPlan& plan, const LayerContext& context,
                      Parameter* embedding);

  std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const;

  /// Loss of each token (0 where next_target is -1) and, in the record, everything its backward needs.
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& loss /* f32 [T] */,
               const Tensor& hidden /* [T, D], after the final norm */, const Tensor& next_ids /* i32 [T] */,
               const Tensor& next_targets /* i32 [T] */, const LanguageModelHead& head, const double* gradient_scale,
               Record& record) const;

  /// As Sublayer::recompute.
  void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& hidden /* [T, D] */,
                 Record& record) const;

  /// Adds to d_hidden, and to the gradients of all parameters involved.
  void backward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_hidden /* [T, D] */,
                const Tensor& hidden /* [T, D] */, const Tensor& next_ids /* i32 [T] */, Record& record) const;

  const DecoderLayer& layer() const { return *layer_; }

 private:
  struct Saved;
  int64_t hidden_;
  DType dtype_;
  Parameter* embedding_;
  NormLayer embedding_norm_;
  NormLayer hidden_norm_;
  LinearLayer join_;
  std::unique_ptr<DecoderLayer> layer_;
  NormLayer out_norm_;
};

}  // namespace deeptitan

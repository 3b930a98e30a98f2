#pragma once

#include <memory>

#include "model/attention/rope_table.h"
#include "model/layer_plan.h"
#include "model/moe/mixture_of_experts.h"
#include "model/norm_layer.h"
#include "model/sublayer.h"

namespace deeptitan {

/// One decoder layer: an attention kind and a feed-forward kind, joined by a residual kind. T tokens, D hidden.
/// The residual kind is the class that implements this interface; attention and feed-forward are Sublayers.
class DecoderLayer {
 public:
  virtual ~DecoderLayer() = default;

  virtual std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const = 0;
  /// `record` is nullptr for inference.
  virtual void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out /* [T, D] */,
                       const Tensor& in /* [T, D] */, Record* record) const = 0;
  /// As Sublayer::recompute.
  virtual void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& in /* [T, D] */,
                         Record& record) const = 0;
  virtual void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_in /* [T, D] */,
                              const Tensor& d_out /* [T, D] */, const Tensor& in /* [T, D] */,
                              Record& record) const = 0;
  virtual void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out /* [T, D] */,
                                const Tensor& in /* [T, D] */, Record& record) const = 0;
  virtual std::vector<CacheStream> cache_streams() const = 0;
  /// The layer's experts; nullptr where it is dense.
  virtual const MixtureOfExperts* experts() const = 0;
};

/// What layers are given besides their plan.
struct LayerContext {
  const RopeTable& rope;
  double auxiliary_weight = 0;  // of the sequence-wise balance loss; 0: none
  MakeDispatcher make_dispatcher = make_local_dispatcher;
};

/// The layer that a plan describes: its residual kind, which builds the attention and feed-forward kinds.
std::unique_ptr<DecoderLayer> make_decoder_layer(ParameterList& parameters, const LayerPlan& plan,
                                                 const LayerContext& context);

/// DeepSeek-V2's and V3's layer: h = in + attention(norm(in)), out = h + feed_forward(norm(h)).
class PreNormDecoderLayer final : public DecoderLayer {
 public:
  PreNormDecoderLayer(ParameterList& parameters, const LayerPlan& plan, const LayerContext& context);

  std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const override;
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& in,
               Record* record) const override;
  void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& in, Record& record) const override;
  void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_in, const Tensor& d_out,
                      const Tensor& in, Record& record) const override;
  void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out, const Tensor& in,
                        Record& record) const override;
  std::vector<CacheStream> cache_streams() const override { return attention_->cache_streams(); }
  const MixtureOfExperts* experts() const override { return experts_; }

 private:
  struct Saved;
  int64_t hidden_;
  DType dtype_;
  NormLayer attention_norm_;
  std::unique_ptr<Sublayer> attention_;
  NormLayer feed_forward_norm_;
  std::unique_ptr<Sublayer> feed_forward_;
  const MixtureOfExperts* experts_ = nullptr;  // feed_forward_, where it has experts
};

}  // namespace deeptitan

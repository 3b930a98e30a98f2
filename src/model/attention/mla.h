#pragma once

#include <optional>

#include "model/attention/rope_table.h"
#include "model/layer_plan.h"
#include "model/linear_layer.h"
#include "model/norm_layer.h"
#include "model/sublayer.h"

namespace deeptitan {

/// Multi-head latent attention (DeepSeek-V2, section 2.1). Queries come straight from x or through a low-rank
/// bottleneck; keys and values come from one latent of kv_lora_rank values a token, plus a rope key that all heads
/// share. Training expands keys and values from the latent for all heads at once. With a cache, a sequence with many
/// rows in the batch expands them head by head, one with few attends in the latent space, with the key and value
/// projections absorbed into query and output (ops/attention.h).
class MultiHeadLatentAttention final : public Sublayer {
 public:
  /// `layer` says which cache is its own.
  MultiHeadLatentAttention(ParameterList& parameters, const LatentAttentionPlan& plan, int64_t hidden, int64_t layer,
                           const RopeTable& rope);

  std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const override;
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
               Record* record) const override;
  void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& x, Record& record) const override;
  void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x, const Tensor& d_out,
                      const Tensor& x, Record& record) const override;
  void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out, const Tensor& x,
                        Record& record) const override;
  std::vector<CacheStream> cache_streams() const override;

 private:
  struct Saved;
  void attend_through_cache(ExecutionContext& ctx, const ForwardContext& forward, const Saved& s) const;
  void rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& positions,
              bool inverse) const;
  void rotate_both(ExecutionContext& ctx, const Tensor& query, const Tensor& key_rope, const Tensor& positions) const;

  AttentionShape shape_;
  int64_t latent_dim_;
  int64_t query_rank_;
  int64_t layer_;
  DType dtype_;
  const RopeTable& rope_;
  bool rotate_halves_;  // config.json's rope_interleave = false
  std::optional<LinearLayer> q_a_;
  std::optional<NormLayer> q_norm_;
  LinearLayer q_b_;  // or q_proj, where there is no bottleneck
  LinearLayer kv_a_;
  NormLayer kv_norm_;
  Parameter* key_value_;             // kv_b_proj
  std::optional<LinearLayer> kv_b_;  // the same, in training
  LinearLayer out_;
  PreparedWeight* key_ = nullptr;           // inference: each head's rows of kv_b that make keys from latents,
  PreparedWeight* absorbed_key_ = nullptr;  // the same for latent queries from queries,
  PreparedWeight* value_ = nullptr;         // and those that make values
};

}  // namespace deeptitan

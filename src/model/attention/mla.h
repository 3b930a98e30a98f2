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
/// share. Training and the first tokens of a sequence expand keys and values from the latent; tokens that continue a
/// cached sequence attend in the latent space, with the key and value projections absorbed into query and output.
class MultiHeadLatentAttention final : public Sublayer {
 public:
  /// `layer` says which cache is its own.
  MultiHeadLatentAttention(ParameterList& parameters, const LatentAttentionPlan& plan, int64_t hidden, int64_t layer,
                           const RopeTable& rope);

  std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const override;
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
               Record* record) const override;
  void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x, const Tensor& d_out,
                      const Tensor& x, Record& record) const override;
  void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out, const Tensor& x,
                        Record& record) const override;
  std::vector<CacheStream> cache_streams() const override;

 private:
  struct Saved;
  void attend_through_cache(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out,
                            const Tensor& query) const;
  void rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& positions,
              bool inverse) const;

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
  LinearLayer kv_b_;
  LinearLayer out_;
  PreparedWeight* absorbed_key_ = nullptr;    // inference: each head's rows of kv_b that make keys
  PreparedWeight* absorbed_value_ = nullptr;  // and those that make values
};

}  // namespace deeptitan

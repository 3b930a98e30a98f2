#pragma once

#include <string>
#include <vector>

#include "model/layer_plan.h"
#include "model/linear_layer.h"
#include "model/sublayer.h"

namespace deeptitan {

/// The gated MLP: down(silu(gate(x)) * up(x)) (Shazeer 2020). Dense layers and shared experts.
class GatedMlp final : public Sublayer {
 public:
  GatedMlp(ParameterList& parameters, const GatedMlpPlan& plan, int64_t hidden);

  std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const override;
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
               Record* record) const override;
  void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& x, Record& record) const override;
  void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x, const Tensor& d_out,
                      const Tensor& x, Record& record) const override;
  void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out, const Tensor& x,
                        Record& record) const override;

  /// The weights, for ops that take several layers at once.
  const PreparedWeight& gate_up() const { return gate_up_.weight(); }
  const PreparedWeight& down() const { return down_.weight(); }

 private:
  struct Saved;
  int64_t width_;
  DType dtype_;
  LinearLayer gate_up_;  // one product: the rows of the gate, then those of the other factor
  LinearLayer down_;
};

/// The file tensors of a stacked weight of both projections of this width, by the names of their layers.
std::vector<ParameterPiece> gate_up_pieces(const std::string& gate, const std::string& up, int64_t width);

}  // namespace deeptitan

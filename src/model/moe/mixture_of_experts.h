#pragma once

#include <memory>
#include <optional>

#include "model/layer_plan.h"
#include "model/linear_layer.h"
#include "model/mlp.h"
#include "model/moe/token_dispatcher.h"
#include "model/sublayer.h"

namespace deeptitan {

/// A Mixture-of-Experts layer (DeepSeekMoE): a router over routed experts, plus shared experts that see every token.
/// Router logits, scores and weights are fp32. A router may have a bias per expert that only chooses; it is a
/// buffer that update_router_bias moves once an optimizer step.
class MixtureOfExperts final : public Sublayer {
 public:
  /// `auxiliary_weight` is the weight of the sequence-wise balance loss (0: none).
  MixtureOfExperts(ParameterList& parameters, const ExpertsPlan& plan, int64_t hidden, int64_t layer,
                   double auxiliary_weight, std::unique_ptr<TokenDispatcher> dispatcher);

  std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const override;
  void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
               Record* record) const override;
  void forward_onto(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
                    const Tensor& residual) const override;
  void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& x, Record& record) const override;
  void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x, const Tensor& d_out,
                      const Tensor& x, Record& record) const override;
  void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out, const Tensor& x,
                        Record& record) const override;

  const RouterOptions& router() const { return options_; }
  const TokenDispatcher& dispatcher() const { return *dispatcher_; }
  /// The bias that chooses; nullptr for routers without.
  Parameter* router_bias() const { return bias_; }

 private:
  struct Saved;
  // The experts' part of a record: of all tokens, or of a slice of them.
  struct ExpertRows {
    Routing routing;
    TokenDispatcher::Route route;
    Tensor rows;          // [R, D]: the tokens, in groups by expert
    Tensor gate_up;       // [R, 2 I]; undefined: not kept
    Tensor activated;     // [R, I]
    Tensor expert_out;    // [R, D]
    Tensor d_expert_out;  // [R, D]
    Tensor d_gate_up;     // [R, 2 I]
  };
  RowGroups groups_of(const ExpertRows& experts) const { return dispatcher_->groups(experts.routing, experts.route); }
  /// forward, or with a residual forward_onto.
  void forward_all(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out, const Tensor& x,
                   const Tensor& residual, Record* record) const;
  template <typename Body>
  void for_slices(ExecutionContext& ctx, const ExpertRows& whole, const Body& body) const;
  void experts_forward(ExecutionContext& ctx, const ExpertRows& experts) const;
  void experts_backward_input(ExecutionContext& ctx, const ExpertRows& experts, const Tensor& d_rows) const;
  void slice_again(ExecutionContext& ctx, const ExpertRows& experts, const Tensor& x, const Tensor& d_weight,
                   const Tensor& d_out) const;
  void experts_backward_weights(ExecutionContext& ctx, const ExpertRows& experts) const;
  void experts_backward_weights_of_both(ExecutionContext& ctx, const ExpertRows& first, const ExpertRows& second) const;
  RouterOptions options_;
  int64_t hidden_;
  int64_t width_;
  int64_t layer_;
  double auxiliary_weight_;
  DType dtype_;
  LinearLayer router_;
  Parameter* bias_ = nullptr;
  LinearLayer gate_up_;  // of all experts: the rows of the gate, then those of the other factor
  LinearLayer down_;
  std::optional<GatedMlp> shared_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
};

}  // namespace deeptitan

#pragma once

#include <string>

#include "model/parameter.h"
#include "ops/rms_norm.h"

namespace deeptitan {

/// RMSNorm with its weight, declared under `name`.weight.
class NormLayer {
 public:
  NormLayer(ParameterList& parameters, const std::string& name, int64_t dim, double epsilon)
      : weight_(parameters.declare({.name = name + ".weight",
                                    .shape = {dim},
                                    .initialization = Initialization::kOnes,
                                    .weight_decay = false,
                                    .direct = true})),
        epsilon_(epsilon) {}

  const Tensor& weight() const { return weight_->value; }
  double epsilon() const { return epsilon_; }

  void forward(ExecutionContext& ctx, const Tensor& out, const Tensor& rstd, const Tensor& x) const {
    rms_norm(ctx, out, rstd, x, weight_->value, epsilon_);
  }
  /// sum = a + b, out = norm(sum).
  void forward_after_add(ExecutionContext& ctx, const Tensor& sum, const Tensor& out, const Tensor& rstd,
                         const Tensor& a, const Tensor& b) const {
    add_rms_norm(ctx, sum, out, rstd, a, b, weight_->value, epsilon_);
  }
  void backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                      const Tensor& rstd, bool accumulate) const {
    rms_norm_backward_input(ctx, d_x, d_out, x, rstd, weight_->value, accumulate);
  }
  void backward_weights(ExecutionContext& ctx, const Tensor& d_out, const Tensor& x, const Tensor& rstd) const {
    if (weight_->gradient.defined()) {
      rms_norm_backward_weight(ctx, weight_->gradient, d_out, x, rstd, weight_->accumulate_gradient());
    }
  }

 private:
  Parameter* weight_;
  double epsilon_;
};

}  // namespace deeptitan

#include "model/linear_layer.h"

namespace deeptitan {

LinearLayer::LinearLayer(ParameterList& parameters, const std::string& name, int64_t outputs, int64_t inputs,
                         const LinearOptions& options) {
  ParameterSpec spec;
  spec.name = name + ".weight";
  spec.pieces = options.pieces;
  if (options.groups > 0) {
    spec.shape = {options.groups, outputs, inputs};
    spec.placement = ParameterPlacement::kExpert;
  } else {
    spec.shape = {outputs, inputs};
  }
  parameter_ = parameters.declare(spec);
  if (options.bias) {
    bias_ = parameters.declare({.name = name + ".bias",
                                .shape = {outputs},
                                .initialization = Initialization::kZeros,
                                .weight_decay = false,
                                .direct = true});
  }
  weight_ = parameters.prepare(parameter_, options.operand);
}

LinearLayer::LinearLayer(ParameterList& parameters, Parameter* weight, DType operand)
    : parameter_(weight), weight_(parameters.prepare(weight, operand)) {}

void LinearLayer::forward(ExecutionContext& ctx, const Tensor& out, const Tensor& x) const {
  linear(ctx, out, x, *weight_);
  if (bias_ != nullptr) add_bias(ctx, out, bias_->value);
}

bool LinearLayer::forward_widened(ExecutionContext& ctx, const Tensor& out, const Tensor& x) const {
  return bias_ == nullptr && widened_linear(ctx, out, x, *weight_);
}

void LinearLayer::forward_beside(ExecutionContext& ctx, const Tensor& out, const LinearLayer& other,
                                 const Tensor& other_out, const Tensor& x) const {
  linear_twice(ctx, out, *weight_, other_out, *other.weight_, x);
  if (bias_ != nullptr) add_bias(ctx, out, bias_->value);
  if (other.bias_ != nullptr) add_bias(ctx, other_out, other.bias_->value);
}

void LinearLayer::backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, bool accumulate) const {
  linear_backward_input(ctx, d_x, d_out, *weight_, accumulate);
}

void LinearLayer::backward_weights(ExecutionContext& ctx, const Tensor& d_out, const Tensor& x) const {
  if (parameter_->gradient.defined()) {
    linear_backward_weight(ctx, parameter_->gradient, d_out, x, parameter_->accumulate_gradient());
  }
  if (bias_ != nullptr && bias_->gradient.defined()) {
    add_bias_backward(ctx, bias_->gradient, d_out, bias_->accumulate_gradient());
  }
}

void LinearLayer::forward_grouped(ExecutionContext& ctx, const Tensor& out, const Tensor& x,
                                  const RowGroups& groups) const {
  grouped_linear(ctx, out, x, *weight_, groups);
}

bool LinearLayer::forward_grouped_gate_up(ExecutionContext& ctx, const Tensor& out, const Tensor& x,
                                          const RowGroups& groups) const {
  return grouped_gate_up(ctx, out, x, *weight_, groups);
}

void LinearLayer::backward_input_grouped(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out,
                                         const RowGroups& groups, bool accumulate) const {
  grouped_linear_backward_input(ctx, d_x, d_out, *weight_, groups, accumulate);
}

void LinearLayer::backward_weights_grouped(ExecutionContext& ctx, const Tensor& d_out, const Tensor& x,
                                           const RowGroups& groups) const {
  if (parameter_->gradient.defined()) {
    grouped_linear_backward_weight(ctx, parameter_->gradient, d_out, x, groups, parameter_->accumulate_gradient());
  }
}

void LinearLayer::backward_weights_of_both(ExecutionContext& ctx, const GroupedOperands& first,
                                           const GroupedOperands& second) const {
  if (parameter_->gradient.defined()) {
    grouped_linear_backward_weight_of_both(ctx, parameter_->gradient, first, second, parameter_->accumulate_gradient());
  }
}

}  // namespace deeptitan

#pragma once

#include <string>
#include <vector>

#include "model/parameter.h"
#include "ops/row_groups.h"

namespace deeptitan {

struct LinearOptions {
  bool bias = false;
  std::vector<ParameterPiece> pieces = {};  // the tensors of a file that the weight is made of, where they are several
  int64_t groups = 0;                       // experts stacked in one parameter; 0: an ordinary linear layer
  DType operand = DType::kF32;              // the type of the activations it multiplies
};

/// y = x W^T + b, or one such product an expert over rows sorted by expert. It declares its parameters under
/// `name`.weight and `name`.bias and is otherwise stateless.
class LinearLayer {
 public:
  LinearLayer(ParameterList& parameters, const std::string& name, int64_t outputs, int64_t inputs,
              const LinearOptions& options);
  /// A layer over a parameter that somebody else has declared: a tied embedding, a shared head.
  LinearLayer(ParameterList& parameters, Parameter* weight, DType operand);

  int64_t outputs() const { return weight_->outputs; }
  int64_t inputs() const { return weight_->inputs; }
  Parameter* parameter() const { return parameter_; }
  /// As the products have it, for ops that take several layers at once.
  const PreparedWeight& weight() const { return *weight_; }

  void forward(ExecutionContext& ctx, const Tensor& out /* [T, outputs] */, const Tensor& x /* [T, inputs] */) const;
  /// Of an fp32 layer, from rows in bf16; false, and nothing is done, where the device has no op for that.
  bool forward_widened(ExecutionContext& ctx, const Tensor& out /* f32 */, const Tensor& x) const;
  /// This layer's and another's product of the same x.
  void forward_beside(ExecutionContext& ctx, const Tensor& out, const LinearLayer& other, const Tensor& other_out,
                      const Tensor& x) const;
  void backward_input(ExecutionContext& ctx, const Tensor& d_x /* [T, inputs] */,
                      const Tensor& d_out /* [T, outputs] */, bool accumulate) const;
  void backward_weights(ExecutionContext& ctx, const Tensor& d_out /* [T, outputs] */,
                        const Tensor& x /* [T, inputs] */) const;

  /// Over rows sorted by group.
  void forward_grouped(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const RowGroups& groups) const;
  /// SwiGLU of it, where the outputs are a gate's and an up projection's; false, and nothing is done, where the device
  /// has no op for that.
  bool forward_grouped_gate_up(ExecutionContext& ctx, const Tensor& out, const Tensor& x,
                               const RowGroups& groups) const;
  void backward_input_grouped(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const RowGroups& groups,
                              bool accumulate) const;
  void backward_weights_grouped(ExecutionContext& ctx, const Tensor& d_out, const Tensor& x,
                                const RowGroups& groups) const;
  void backward_weights_of_both(ExecutionContext& ctx, const GroupedOperands& first,
                                const GroupedOperands& second) const;

 private:
  Parameter* parameter_;
  Parameter* bias_ = nullptr;
  PreparedWeight* weight_;
};

}  // namespace deeptitan

// Names and layouts under which other programs store the tensors of a model, brought to those of the hub's files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_entry.h"

namespace deeptitan {

/// The name without what wrappers add: every "_orig_mod." of a compiled module (torch.compile), and a leading "module."
/// of a distributed one.
std::string plain_tensor_name(std::string_view name);

/// Whether `name` is that of all experts' matrices in one tensor, as transformers 5 holds them:
///   X.mlp.experts.gate_up_proj [E, 2 I, H]   of expert e: rows 0 to I are the gate's, I to 2 I the up projection's
///   X.mlp.experts.down_proj    [E, H, I]
/// or of its fp8 scales (the same with "_scale_inv").
bool is_fused_experts(std::string_view name);

/// The matrices of such a tensor, under the names of the hub's files (X.mlp.experts.0.gate_proj.weight, ...); they are
/// views of the same bytes. Throws Error, beginning with `file`, for a tensor that is not of that shape.
std::vector<TensorEntry> split_fused_experts(const TensorEntry& tensor, std::string_view file);

}  // namespace deeptitan

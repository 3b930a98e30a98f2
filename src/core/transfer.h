#pragma once

#include "core/tensor.h"

namespace deeptitan {

/// to = from, contiguous tensors of one dtype and as many elements, wherever each lies; waits until it is done. For
/// what happens beside steps: loading, saving, small tables and results.
void copy_tensor(const Tensor& to, const Tensor& from);

/// Zeroes a contiguous tensor wherever it lies.
void clear_tensor(const Tensor& tensor);

}  // namespace deeptitan

#pragma once

#include <span>
#include <vector>

#include "core/tensor.h"

namespace deeptitan {

/// to = from, contiguous tensors of one dtype and as many elements, wherever each lies; waits until it is done. For
/// what happens beside steps: loading, saving, small tables and results.
void copy_tensor(const Tensor& to, const Tensor& from);

/// tensor = values, as many as it has elements; T is float or int32_t, the tensor's type.
template <typename T>
void upload(const Tensor& tensor, std::span<const T> values) {
  copy_tensor(tensor, Tensor(const_cast<T*>(values.data()), DTypeOf<T>::value, {static_cast<int64_t>(values.size())}));
}

/// The elements of a contiguous tensor wherever it lies.
template <typename T>
std::vector<T> download(const Tensor& tensor) {
  std::vector<T> values(static_cast<size_t>(tensor.numel()));
  copy_tensor(Tensor(values.data(), DTypeOf<T>::value, {tensor.numel()}), tensor);
  return values;
}

/// Zeroes a contiguous tensor wherever it lies.
void clear_tensor(const Tensor& tensor);

}  // namespace deeptitan

#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/bfloat16.h"
#include "core/device.h"
#include "core/dtype.h"

namespace deeptitan {

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint32_t> {  // packed words
  static constexpr DType value = DType::kI32;
};

/// A non-owning, typed view of up to four dimensions. The first dimension may have a stride of its own, so that a slice
/// of rows or (of a matrix) of columns is a view; the other dimensions are dense. Cheap to pass by value; it never
/// allocates.
class Tensor {
 public:
  static constexpr int kMaxRank = 4;
  using Shape = std::initializer_list<int64_t>;

  Tensor() = default;
  Tensor(void* data, DType dtype, Shape shape, Device device = {});

  bool defined() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  /// Extent of dimension i; negative i counts from the end.
  int64_t size(int i) const { return shape_[i < 0 ? rank_ + i : i]; }
  int64_t numel() const;
  /// Elements of one entry of the first dimension: a row.
  int64_t row_numel() const;
  /// Elements from one entry of the first dimension to the next.
  int64_t stride() const { return stride_; }
  bool contiguous() const { return size(0) <= 1 || stride_ == row_numel(); }
  /// Bytes of a contiguous tensor.
  int64_t bytes() const;

  /// The address, for kernels: it may lie in any memory.
  void* raw() const { return data_; }
  /// The same as the dtype's pointer; throws unless the dtype is T's.
  template <typename T>
  T* raw() const {
    check_dtype(DTypeOf<T>::value);
    return static_cast<T*>(data_);
  }
  /// The elements, to be read and written by the CPU. Throws, naming the tensor (`name` says what it is), unless its
  /// dtype is T's and the CPU can reach it.
  template <typename T>
  T* host(const char* name = "a tensor") const {
    if (dtype_ != DTypeOf<T>::value || device_.kind != DeviceKind::kCpu) [[unlikely]]
      fail_host(name, DTypeOf<T>::value);
    return static_cast<T*>(data_);
  }

  /// Entries [begin, end) of the first dimension.
  Tensor rows(int64_t begin, int64_t end) const;
  /// Columns [begin, end) of a matrix.
  Tensor columns(int64_t begin, int64_t end) const;
  /// The same elements under another shape; throws unless contiguous and of equal size.
  Tensor reshape(Shape shape) const;

  bool same_shape(const Tensor& other) const;
  /// "bf16 [2048, 256]", for messages; with " on cuda:0" where it lies on a GPU.
  std::string describe() const;

 private:
  void check_dtype(DType wanted) const;
  [[noreturn]] void fail_host(const char* name, DType wanted) const;

  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> shape_{};
  int64_t stride_ = 0;
  Device device_;
};

/// Throws unless every one of these is contiguous (or undefined). `op` says who asks.
void check_contiguous(const char* op, std::initializer_list<Tensor> tensors);

/// Throws unless `tensor` has this dtype and shape; -1 stands for any extent. `name` says what it is.
void check_tensor(const Tensor& tensor, const char* name, DType dtype, Tensor::Shape shape);

}  // namespace deeptitan

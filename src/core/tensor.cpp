#include "core/tensor.h"

#include <algorithm>

#include "core/error.h"

namespace deeptitan {

Tensor::Tensor(void* data, DType dtype, Shape shape, Device device)
    : data_(data), dtype_(dtype), rank_(static_cast<int>(shape.size())), device_(device) {
  DT_CHECK(rank_ >= 1 && rank_ <= kMaxRank, "a tensor has 1 to {} dimensions, found {}", kMaxRank, rank_);
  std::copy(shape.begin(), shape.end(), shape_.begin());
  stride_ = row_numel();
}

int64_t Tensor::row_numel() const {
  int64_t product = 1;
  for (int i = 1; i < rank_; ++i) product *= shape_[i];
  return product;
}

int64_t Tensor::numel() const {
  return rank_ == 0 ? 0 : shape_[0] * row_numel();
}

int64_t Tensor::bytes() const {
  return numel() * static_cast<int64_t>(dtype_size(dtype_));
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  DT_CHECK(0 <= begin && begin <= end && end <= shape_[0], "rows [{}, {}) of {}", begin, end, describe());
  Tensor part = *this;
  part.data_ = static_cast<char*>(data_) + begin * stride_ * static_cast<int64_t>(dtype_size(dtype_));
  part.shape_[0] = end - begin;
  return part;
}

Tensor Tensor::columns(int64_t begin, int64_t end) const {
  DT_CHECK(rank_ == 2 && 0 <= begin && begin <= end && end <= shape_[1], "columns [{}, {}) of {}", begin, end,
           describe());
  Tensor part = *this;
  part.data_ = static_cast<char*>(data_) + begin * static_cast<int64_t>(dtype_size(dtype_));
  part.shape_[1] = end - begin;
  return part;
}

Tensor Tensor::reshape(Shape shape) const {
  const Tensor result(data_, dtype_, shape, device_);
  DT_CHECK(contiguous() && result.numel() == numel(), "reshape of {}{} to {}", contiguous() ? "" : "the strided ",
           describe(), result.describe());
  return result;
}

bool Tensor::same_shape(const Tensor& other) const {
  return rank_ == other.rank_ && std::equal(shape_.begin(), shape_.begin() + rank_, other.shape_.begin());
}

std::string Tensor::describe() const {
  std::string text = fmt::format("{} [", dtype_name(dtype_));
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", shape_[i]);
  text += "]";
  return device_.kind == DeviceKind::kCpu ? text : text + " on " + device_name(device_);
}

void Tensor::check_dtype(DType wanted) const {
  DT_CHECK(dtype_ == wanted, "expected a tensor of {}, found {}", dtype_name(wanted), describe());
}

void Tensor::fail_host(const char* name, DType wanted) const {
  DT_CHECK(dtype_ == wanted, "{}: expected {}, found {}", name, dtype_name(wanted), describe());
  fail("{}: the CPU cannot read {}; copy it to the host's memory first", name, describe());
}

void check_contiguous(const char* op, std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors) {
    DT_CHECK(!tensor.defined() || tensor.contiguous(),
             "{}: expected contiguous rows, found {} with {} elements from row to row", op, tensor.describe(),
             tensor.stride());
  }
}

void check_tensor(const Tensor& tensor, const char* name, DType dtype, Tensor::Shape shape) {
  bool equal = tensor.dtype() == dtype && tensor.rank() == static_cast<int>(shape.size());
  int i = 0;
  for (const int64_t extent : shape) {
    equal = equal && (extent < 0 || tensor.size(i) == extent);
    ++i;
  }
  if (equal) return;
  std::string wanted = fmt::format("{} [", dtype_name(dtype));
  i = 0;
  for (const int64_t extent : shape) {
    wanted += fmt::format("{}{}", i++ == 0 ? "" : ", ", extent < 0 ? "any" : std::to_string(extent));
  }
  fail("{}: expected {}], found {}", name, wanted, tensor.describe());
}

}  // namespace deeptitan

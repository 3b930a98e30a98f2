#include "checkpoint/read_tensor.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "checkpoint/convert_elements.h"
#include "core/dtype_word.h"
#include "core/error.h"

namespace deeptitan {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

int64_t blocks(int64_t extent) {
  return (extent + kFloat8BlockSize - 1) / kFloat8BlockSize;
}

// A tensor of this shape whose elements are numbers.
const TensorEntry& numbers(const ModelDirectory& model, std::string_view name, const std::vector<int64_t>& shape) {
  const TensorEntry& tensor = model.at(name);
  DT_CHECK(tensor.shape == shape, "{}: tensor {} has shape {}, the model needs {}", model.path().string(), name,
           shape_text(tensor.shape), shape_text(shape));
  switch (tensor.dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF64:
    case DType::kF8E4M3:
      return tensor;
    default:
      fail("{}: tensor {} is {}; the model needs fp32, bf16, fp16, fp64 or fp8", model.path().string(), name,
           dtype_word(tensor.dtype));
  }
}

}  // namespace

bool holds_float8(const ModelDirectory& model) {
  return std::any_of(model.names().begin(), model.names().end(),
                     [&](const std::string& name) { return model.at(name).dtype == DType::kF8E4M3; });
}

bool is_float8_scale(const ModelDirectory& model, std::string_view name) {
  return name.ends_with(kScaleSuffix) && model.contains(name.substr(0, name.size() - kScaleSuffix.size()));
}

const TensorEntry* float8_scale(const ModelDirectory& model, const TensorEntry& tensor) {
  if (tensor.dtype != DType::kF8E4M3) return nullptr;
  const TensorEntry* scale = model.find(tensor.name + std::string(kScaleSuffix));
  if (scale == nullptr) return nullptr;
  const std::string path = model.path().string();
  DT_CHECK(tensor.shape.size() == 2, "{}: tensor {} has shape {}; e4m3 with block scales must be a matrix", path,
           tensor.name, shape_text(tensor.shape));
  const std::vector<int64_t> shape = {blocks(tensor.shape[0]), blocks(tensor.shape[1])};
  DT_CHECK(scale->dtype == DType::kF32 && scale->shape == shape,
           "{}: tensor {} is {} {}; the 128x128 blocks of {} {} need fp32 {}", path, scale->name,
           dtype_word(scale->dtype), shape_text(scale->shape), tensor.name, shape_text(tensor.shape),
           shape_text(shape));
  return scale;
}

void read_tensor(const ModelDirectory& model, std::string_view name, const std::vector<int64_t>& shape, DType to,
                 void* destination) {
  const TensorEntry& tensor = numbers(model, name, shape);
  model.prefetch(tensor);
  if (const TensorEntry* scale = float8_scale(model, tensor)) {
    dequantize_float8_blocks(tensor.data, scale->data, shape[0], shape[1], destination, to);
  } else {
    convert_elements(tensor.data, tensor.dtype, destination, to, element_count(shape));
  }
  model.release(tensor);
}

void read_tensor_rows(const ModelDirectory& model, std::string_view name, const std::vector<int64_t>& shape,
                      int64_t first, int64_t rows, DType to, void* destination) {
  const TensorEntry& tensor = numbers(model, name, shape);
  const int64_t columns = shape[0] == 0 ? 0 : element_count(shape) / shape[0];
  const TensorEntry* scale = float8_scale(model, tensor);
  DT_CHECK(first >= 0 && rows >= 0 && first + rows <= shape[0] && (scale == nullptr || first % kFloat8BlockSize == 0),
           "{}: rows {} to {} of tensor {} were asked for, which has {}{}", model.path().string(), first,
           first + rows - 1, name, shape[0], scale == nullptr ? "" : " in blocks of 128");
  const size_t row_bytes = static_cast<size_t>(columns) * dtype_size(tensor.dtype);
  const size_t bytes = static_cast<size_t>(rows) * row_bytes;
  if (tensor.dtype == to) {
    model.read(tensor, static_cast<size_t>(first) * row_bytes, bytes, destination);
    return;
  }
  thread_local std::vector<std::byte> stored;
  stored.resize(std::max(stored.size(), bytes));
  model.read(tensor, static_cast<size_t>(first) * row_bytes, bytes, stored.data());
  if (scale == nullptr) {
    convert_elements(stored.data(), tensor.dtype, destination, to, rows * columns);
    return;
  }
  const std::byte* scales = scale->data + first / kFloat8BlockSize * blocks(columns) * sizeof(float);
  dequantize_float8_blocks(stored.data(), scales, rows, columns, destination, to);
}

}  // namespace deeptitan

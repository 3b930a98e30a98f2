#include "checkpoint/read_tensor.h"

#include <algorithm>
#include <string>

#include "checkpoint/convert_elements.h"
#include "core/dtype_word.h"
#include "core/error.h"

namespace deeptitan {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

int64_t blocks(int64_t extent) {
  return (extent + kFloat8BlockSize - 1) / kFloat8BlockSize;
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
  const TensorEntry& tensor = model.at(name);
  DT_CHECK(tensor.shape == shape, "{}: tensor {} has shape {}, the model needs {}", model.path().string(), name,
           shape_text(tensor.shape), shape_text(shape));
  model.prefetch(tensor);
  if (const TensorEntry* scale = float8_scale(model, tensor)) {
    dequantize_float8_blocks(tensor.data, scale->data, shape[0], shape[1], destination, to);
  } else {
    switch (tensor.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
      case DType::kF64:
      case DType::kF8E4M3:
        break;
      default:
        fail("{}: tensor {} is {}; the model needs fp32, bf16, fp16, fp64 or fp8", model.path().string(), name,
             dtype_word(tensor.dtype));
    }
    convert_elements(tensor.data, tensor.dtype, destination, to, element_count(shape));
  }
  model.release(tensor);
}

}  // namespace deeptitan

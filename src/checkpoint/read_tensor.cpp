#include "checkpoint/read_tensor.h"

#include "checkpoint/convert_elements.h"
#include "core/error.h"

namespace deeptitan {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

int64_t blocks(int64_t extent) {
  return (extent + kFloat8BlockSize - 1) / kFloat8BlockSize;
}

}  // namespace

bool is_float8_scale(const ModelDirectory& model, std::string_view name) {
  return name.ends_with(kScaleSuffix) && model.contains(name.substr(0, name.size() - kScaleSuffix.size()));
}

void read_tensor(const ModelDirectory& model, std::string_view name, const std::vector<int64_t>& shape, DType to,
                 void* destination) {
  const TensorEntry& tensor = model.at(name);
  DT_CHECK(tensor.shape == shape, "{}: tensor {} has shape {}, the model needs {}", model.path().string(), name,
           shape_text(tensor.shape), shape_text(shape));
  const std::string scale_name = std::string(name) + std::string(kScaleSuffix);
  if (tensor.dtype == DType::kF8E4M3 && model.contains(scale_name)) {
    DT_CHECK(shape.size() == 2, "{}: tensor {} has shape {}; e4m3 with block scales must be a matrix",
             model.path().string(), name, shape_text(shape));
    const TensorEntry& scale = model.at(scale_name);
    const std::vector<int64_t> scale_shape = {blocks(shape[0]), blocks(shape[1])};
    DT_CHECK(scale.dtype == DType::kF32 && scale.shape == scale_shape,
             "{}: tensor {} is {} {}; the 128x128 blocks of {} {} need f32 {}", model.path().string(), scale_name,
             dtype_name(scale.dtype), shape_text(scale.shape), name, shape_text(shape), shape_text(scale_shape));
    dequantize_float8_blocks(tensor.data, scale.data, shape[0], shape[1], destination, to);
  } else {
    switch (tensor.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
      case DType::kF64:
      case DType::kF8E4M3:
        break;
      default:
        fail("{}: tensor {} is {}; the model needs f32, bf16, f16, f64 or f8_e4m3", model.path().string(), name,
             dtype_name(tensor.dtype));
    }
    convert_elements(tensor.data, tensor.dtype, destination, to, element_count(shape));
  }
  model.release(tensor);
}

}  // namespace deeptitan

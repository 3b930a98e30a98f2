#pragma once

#include <span>

#include "core/device.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "kernels/grouped_gemm_options.h"

namespace deeptitan {

/// How a weight is laid out for products: what its words are and how they lie. A format belongs to a kind of device.
enum class WeightFormat {
  kPanelsF32,   // CPU: panels of 32 columns (kernels/cpu/matmul/packing.h), one layout for each direction
  kPanelsBf16,  // CPU: the same, two bf16 that are neighbours along the contracted dimension in a word
  kRowsF32,     // CUDA: the rows themselves, which serve both directions
  kRowsBf16,    // CUDA: the same in bf16
  // CUDA, of experts in inference: e4m3 rows that serve y = x W^T alone, whose activations are quantised as they come.
  kRowsFp8Block128,  // a scale for each 128 x 128 block
  kRowsFp8Rowwise,   // a scale for each row
};

/// "panels_bf16"
const char* name_of(WeightFormat format);

/// Whether its words are e4m3: such a weight takes part in grouped_linear alone.
constexpr bool is_fp8(WeightFormat format) {
  return format == WeightFormat::kRowsFp8Block128 || format == WeightFormat::kRowsFp8Rowwise;
}

/// Whose products take it.
DeviceKind device_of(WeightFormat format);

/// Whether it is the weight's rows in a type of elements, one after another.
bool is_rows(WeightFormat format);

/// A product that exists: activations x (x or d_y) times a weight, into y (y or d_x).
struct WeightProduct {
  WeightFormat format;
  DType x;
  DType y;
};

/// All products that exist. A format is added here, to weight_format(), and to the kernels of its device.
std::span<const WeightProduct> weight_products();

/// The format in which a device multiplies activations of this type, experts' by this strategy. Throws where it has
/// none.
WeightFormat weight_format(Device device, DType activations, GroupedGemmStrategy strategy = GroupedGemmStrategy::kBf16);

/// Throws unless the product exists; the message names those of the format.
void check_weight_product(const char* op, WeightFormat format, const Tensor& x, const Tensor& y);

}  // namespace deeptitan

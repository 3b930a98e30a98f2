#include "ops/weight_format.h"

#include <string>

#include "core/error.h"

namespace deeptitan {
namespace {

struct FormatOfDevice {
  WeightFormat format;
  const char* name;
  DeviceKind device;
  DType activations;
  GroupedGemmStrategy strategy = GroupedGemmStrategy::kBf16;  // of experts; what multiplies as kBf16 has its formats
};
constexpr FormatOfDevice kFormats[] = {{WeightFormat::kPanelsF32, "panels_f32", DeviceKind::kCpu, DType::kF32},
                                       {WeightFormat::kPanelsBf16, "panels_bf16", DeviceKind::kCpu, DType::kBF16},
                                       {WeightFormat::kRowsF32, "rows_f32", DeviceKind::kCuda, DType::kF32},
                                       {WeightFormat::kRowsBf16, "rows_bf16", DeviceKind::kCuda, DType::kBF16},
                                       {WeightFormat::kRowsFp8Block128, "rows_fp8_block128", DeviceKind::kCuda,
                                        DType::kBF16, GroupedGemmStrategy::kFp8Blockwise},
                                       {WeightFormat::kRowsFp8Rowwise, "rows_fp8_rowwise", DeviceKind::kCuda,
                                        DType::kBF16, GroupedGemmStrategy::kFp8Rowwise}};

constexpr WeightProduct kProducts[] = {{WeightFormat::kPanelsF32, DType::kF32, DType::kF32},
                                       {WeightFormat::kPanelsF32, DType::kF32, DType::kBF16},
                                       {WeightFormat::kPanelsBf16, DType::kBF16, DType::kBF16},
                                       {WeightFormat::kPanelsBf16, DType::kBF16, DType::kF32},
                                       {WeightFormat::kRowsF32, DType::kF32, DType::kF32},
                                       {WeightFormat::kRowsF32, DType::kF32, DType::kBF16},
                                       {WeightFormat::kRowsBf16, DType::kBF16, DType::kBF16},
                                       {WeightFormat::kRowsBf16, DType::kBF16, DType::kF32},
                                       {WeightFormat::kRowsFp8Block128, DType::kBF16, DType::kBF16},
                                       {WeightFormat::kRowsFp8Rowwise, DType::kBF16, DType::kBF16}};

const FormatOfDevice& entry_of(WeightFormat format) {
  for (const FormatOfDevice& entry : kFormats) {
    if (entry.format == format) return entry;
  }
  fail("weight format {} stands in no row of the table of formats", static_cast<int>(format));
}

[[noreturn]] void fail_without_product(const char* op, WeightFormat format, DType x, DType y) {
  std::string those;
  for (const WeightProduct& product : kProducts) {
    if (product.format != format) continue;
    those += fmt::format("{}{} to {}", those.empty() ? "" : ", ", dtype_name(product.x), dtype_name(product.y));
  }
  fail("{}: a weight as {} does not take {} to {}; it takes {}", op, name_of(format), dtype_name(x), dtype_name(y),
       those);
}

}  // namespace

const char* name_of(WeightFormat format) {
  return entry_of(format).name;
}

DeviceKind device_of(WeightFormat format) {
  return entry_of(format).device;
}

bool is_rows(WeightFormat format) {
  return format == WeightFormat::kRowsF32 || format == WeightFormat::kRowsBf16;
}

std::span<const WeightProduct> weight_products() {
  return kProducts;
}

WeightFormat weight_format(Device device, DType activations, GroupedGemmStrategy strategy) {
  if (strategy == GroupedGemmStrategy::kLoop) strategy = GroupedGemmStrategy::kBf16;
  std::string those;
  for (const FormatOfDevice& entry : kFormats) {
    if (entry.device != device.kind || entry.strategy != strategy) continue;
    if (entry.activations == activations) return entry.format;
    those += fmt::format("{}{}", those.empty() ? "" : ", ", dtype_name(entry.activations));
  }
  fail("no format of weights for activations of {} on {}; there are some for {}", dtype_name(activations),
       device.kind == DeviceKind::kCuda ? "a GPU" : "the CPU", those);
}

void check_weight_product(const char* op, WeightFormat format, const Tensor& x, const Tensor& y) {
  for (const WeightProduct& product : kProducts) {
    if (product.format == format && product.x == x.dtype() && product.y == y.dtype()) [[likely]]
      return;
  }
  fail_without_product(op, format, x.dtype(), y.dtype());
}

}  // namespace deeptitan

#include "device_peaks.h"

#include "core/device_choice.h"
#include "kernels/cpu/peak/peak.h"
#ifdef DT_CUDA
#include "kernels/cuda/peak/peak.h"
#endif

namespace deeptitan {

double measure_matrix_peak(Device device, DType operand, double seconds) {
#ifdef DT_CUDA
  if (device.kind == DeviceKind::kCuda) {
    use_device(device);
    return cuda::measure_matrix_peak(operand == DType::kBF16);
  }
#endif
  if (device.kind == DeviceKind::kCuda) fail_without_cuda("a bench", device);
  return cpu::measure_matrix_peak(operand == DType::kBF16 ? cpu::OperandType::kBfloat16 : cpu::OperandType::kFloat,
                                  seconds);
}

double measure_memory_peak(Device device, double seconds) {
#ifdef DT_CUDA
  if (device.kind == DeviceKind::kCuda) {
    use_device(device);
    return cuda::measure_copy_bandwidth();
  }
#endif
  if (device.kind == DeviceKind::kCuda) fail_without_cuda("a bench", device);
  return cpu::measure_read_bandwidth(seconds);
}

}  // namespace deeptitan

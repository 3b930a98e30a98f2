#include "core/device.h"

#include "core/error.h"

namespace deeptitan {

std::string device_name(Device device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

void fail_without_cuda(const std::string& what, Device device) {
  fail_usage(
      "{} was asked for on {}, and this build of deeptitan has no CUDA; use cpu, or build the preset cuda (cmake "
      "--preset cuda)",
      what, device_name(device));
}

}  // namespace deeptitan

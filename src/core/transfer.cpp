#include "core/transfer.h"

#include <cstring>

#include "core/error.h"
#ifdef DT_CUDA
#include "core/cuda_device.h"
#endif

namespace deeptitan {
namespace {

bool on_host(const Tensor& tensor) {
  return tensor.device().kind == DeviceKind::kCpu;
}

}  // namespace

void copy_tensor(const Tensor& to, const Tensor& from) {
  DT_CHECK(to.dtype() == from.dtype() && to.numel() == from.numel() && to.contiguous() && from.contiguous(),
           "copy_tensor: {} from {}; expected contiguous tensors of one dtype and size", to.describe(),
           from.describe());
  if (to.bytes() == 0) return;
  if (on_host(to) && on_host(from)) {
    std::memcpy(to.raw(), from.raw(), to.bytes());
    return;
  }
#ifdef DT_CUDA
  cuda::copy(to.raw(), from.raw(), to.bytes());
#else
  fail_without_cuda("a copy", on_host(to) ? from.device() : to.device());
#endif
}

void clear_tensor(const Tensor& tensor) {
  DT_CHECK(tensor.contiguous(), "clear_tensor: {} is not contiguous", tensor.describe());
  if (tensor.bytes() == 0) return;
  if (on_host(tensor)) {
    std::memset(tensor.raw(), 0, tensor.bytes());
    return;
  }
#ifdef DT_CUDA
  cuda::clear(tensor.raw(), tensor.bytes());
#else
  fail_without_cuda("clearing", tensor.device());
#endif
}

}  // namespace deeptitan

#include "core/device_memory.h"

#include <sys/mman.h>

#include <utility>

#include "core/error.h"
#ifdef DT_CUDA
#include "core/cuda_memory.h"
#endif

namespace deeptitan {
namespace {

// Anonymous pages are zero, and cost nothing until they are touched.
char* map_pages(const std::string& owner, int64_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  DT_CHECK(memory != MAP_FAILED, "the {} arena needs {} bytes, which the system does not give", owner, bytes);
  madvise(memory, bytes, MADV_HUGEPAGE);
  return static_cast<char*>(memory);
}

bool is_mapped(Device device, MemoryKind kind) {
  return device.kind == DeviceKind::kCpu || kind == MemoryKind::kHost;
}

}  // namespace

int64_t memory_alignment(Device device) {
  return device.kind == DeviceKind::kCpu ? 64 : 256;
}

MemoryBlock::MemoryBlock(const std::string& owner, Device device, MemoryKind kind, int64_t bytes)
    : bytes_(bytes), device_(device), kind_(kind) {
#ifndef DT_CUDA
  if (device.kind == DeviceKind::kCuda) fail_without_cuda("the " + owner + " arena", device);
#endif
  if (bytes == 0) return;
  if (is_mapped(device, kind)) {
    data_ = map_pages(owner, bytes);
    return;
  }
#ifdef DT_CUDA
  data_ = static_cast<char*>(kind == MemoryKind::kPinned ? cuda::allocate_pinned(owner, device.index, bytes)
                                                         : cuda::allocate(owner, device.index, bytes));
#endif
}

MemoryBlock::~MemoryBlock() {
  if (data_ == nullptr) return;
  if (is_mapped(device_, kind_)) {
    munmap(data_, bytes_);
    return;
  }
#ifdef DT_CUDA
  if (kind_ == MemoryKind::kPinned) {
    cuda::free_pinned(data_);
  } else {
    cuda::free(device_.index, data_);
  }
#endif
}

void MemoryBlock::swap(MemoryBlock& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(kind_, other.kind_);
}

}  // namespace deeptitan

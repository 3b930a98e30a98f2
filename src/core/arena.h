#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/device_memory.h"
#include "core/tensor.h"

namespace deeptitan {

/// One planned block of memory, handed out front to back. An arena first *counts*: take() gives views at addresses that
/// must not be touched, and peak() says how many bytes were in use at once. After allocate(peak()) the same sequence of
/// calls gives real memory; asking for more than was planned is an error, never a hidden allocation.
///
/// Built with AddressSanitizer, pieces lie apart, and what lies between them or was released is poisoned.
class Arena {
 public:
  explicit Arena(std::string name, Device device = {}, MemoryKind kind = MemoryKind::kDevice);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  const std::string& name() const { return name_; }
  /// Where the pieces lie: the CPU for host and pinned memory.
  Device device() const { return kind_ == MemoryKind::kDevice ? device_ : Device{}; }

  /// A contiguous view of the next free bytes, aligned as the device wants it (memory_alignment). Not cleared.
  Tensor take(DType dtype, Tensor::Shape shape);

  /// Allocates `bytes` (peak() by default), cleared to zero, and starts again from the front. Throws where the memory
  /// cannot be had.
  void allocate(int64_t bytes);
  void allocate() { allocate(peak_); }
  /// Takes over a block that somebody else owns and keeps alive (a symmetric window) instead of allocating one.
  void adopt(void* block, int64_t bytes);
  bool allocated() const { return allocated_; }

  /// Where the next piece begins; release(mark) gives back everything taken since. A stack, for workspace.
  int64_t mark() const { return used_; }
  void release(int64_t mark);
  /// Takes pieces again from the mark on, while those taken since stay in use: they share the memory and are used one
  /// after another.
  void share_from(int64_t mark);

  /// The most bytes that were in use at once.
  int64_t peak() const { return peak_; }
  int64_t capacity() const { return capacity_; }

 private:
  void start(char* base, int64_t bytes);
  bool watched() const;

  std::string name_;
  Device device_;
  MemoryKind kind_;
  int64_t alignment_;
  MemoryBlock block_;
  char* base_;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  bool allocated_ = false;
};

/// Pieces of an arena that are given back at the end of a scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

  Tensor take(DType dtype, Tensor::Shape shape) { return arena_.take(dtype, shape); }
  /// A piece of raw bytes for a kernel's workspace; nullptr-safe for zero bytes.
  void* take_bytes(int64_t bytes) { return arena_.take(DType::kU8, {bytes}).raw(); }

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace deeptitan

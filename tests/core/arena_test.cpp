#include "core/arena.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include <gtest/gtest.h>

#include "core/address_sanitizer.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

int64_t address(const Tensor& tensor) {
  return reinterpret_cast<int64_t>(tensor.raw());
}

TEST(Arena, WhatWasCountedIsEnoughForTheSameCalls) {
  Arena arena("steps", {});
  const auto take_all = [&] {
    arena.take(DType::kBF16, {3, 5});
    const int64_t mark = arena.mark();
    arena.take(DType::kF32, {100});
    arena.release(mark);
    arena.take(DType::kI32, {7});
  };
  take_all();
  const int64_t peak = arena.peak();
  EXPECT_GE(peak, 64 + 448);
  arena.allocate();
  take_all();
  EXPECT_EQ(arena.peak(), peak);
}

TEST(Arena, MoreThanWasPlannedIsAnErrorAndNoHiddenAllocation) {
  Arena arena("steps", {});
  arena.allocate(0);
  const int64_t piece = kAddressSanitizer ? 128 : 64;
  expect_runtime_error(
      [&] { arena.take(DType::kF32, {1}); },
      "the steps arena was planned for 0 bytes; " + std::to_string(piece) + " bytes more were asked for with 0 in use");
}

TEST(Arena, PiecesAreAlignedAsTheDeviceWantsThem) {
  Arena cpu("cpu", {});
  cpu.take(DType::kU8, {1});
  EXPECT_EQ(address(cpu.take(DType::kU8, {1})) % 64, 0);
  // Counting needs no device.
  Arena cuda("cuda", {DeviceKind::kCuda, 0});
  const Tensor first = cuda.take(DType::kU8, {1});
  const Tensor second = cuda.take(DType::kU8, {1});
  EXPECT_EQ(address(second) - address(first), 256);
  EXPECT_EQ(address(second) % 256, 0);
  EXPECT_EQ(second.device(), (Device{DeviceKind::kCuda, 0}));
}

TEST(Arena, PinnedAndHostPiecesOfAGpuCanBeReadByTheCpu) {
  const Device gpu{DeviceKind::kCuda, 1};
  EXPECT_EQ(Arena("batch", gpu, MemoryKind::kPinned).take(DType::kI32, {4}).device(), Device{});
  EXPECT_EQ(Arena("batch", gpu, MemoryKind::kHost).take(DType::kI32, {4}).device(), Device{});
}

#ifndef DT_CUDA
TEST(Arena, ABuildWithoutCudaSaysSo) {
  Arena arena("activations", {DeviceKind::kCuda, 1});
  expect_usage_error([&] { arena.allocate(64); },
                     "the activations arena was asked for on cuda:1, and this build of deeptitan has no CUDA; use cpu, "
                     "or build the preset cuda (cmake --preset cuda)");
}
#endif

TEST(Arena, AdoptsABlockThatItDoesNotFree) {
  alignas(64) std::array<char, 256> block{};
  {
    Arena arena("window", {});
    arena.adopt(block.data(), 256);
    const Tensor piece = arena.take(DType::kF32, {2});
    EXPECT_EQ(piece.raw(), block.data());
    piece.host<float>()[1] = 1.0f;
    EXPECT_EQ(arena.capacity(), 256);
  }
  EXPECT_NE(block[7], 0);
  Arena arena("window", {});
  const std::string message = message_of([&] { arena.adopt(block.data() + 4, 64); });
  EXPECT_TRUE(message.starts_with("the window arena wants a block aligned to 64 bytes, found 0x")) << message;
}

TEST(Arena, MemoryComesCleared) {
  Arena arena("cleared", {});
  arena.allocate(1 << 20);
  const Tensor piece = arena.take(DType::kI32, {1000});
  EXPECT_EQ(std::count(piece.host<int32_t>(), piece.host<int32_t>() + 1000, 0), 1000);
}

TEST(Arena, PiecesThatShareMemoryAreAllInUse) {
  Arena arena("records", {});
  const auto take_both = [&] {
    const int64_t mark = arena.mark();
    const Tensor first = arena.take(DType::kI32, {40});
    arena.share_from(mark);
    const Tensor second = arena.take(DType::kI32, {50});
    return std::pair(first, second);
  };
  take_both();
  arena.allocate();
  const auto [first, second] = take_both();
  EXPECT_EQ(first.raw(), second.raw());
  std::fill_n(second.host<int32_t>(), 50, 2);
  EXPECT_EQ(first.host<int32_t>()[39], 2);
}

#ifdef DT_ADDRESS_SANITIZER
TEST(ArenaDeathTest, ReadingBeyondAPieceIsCaught) {
  Arena arena("watched", {});
  arena.allocate(1024);
  const Tensor piece = arena.take(DType::kI32, {16});
  arena.take(DType::kI32, {16});
  EXPECT_DEATH(static_cast<volatile int32_t*>(piece.host<int32_t>())[16] = 1, "use-after-poison");
}

TEST(ArenaDeathTest, UsingAPieceAfterItsReleaseIsCaught) {
  Arena arena("watched", {});
  arena.allocate(1024);
  Tensor piece;
  {
    ArenaScope scope(arena);
    piece = scope.take(DType::kI32, {16});
    piece.host<int32_t>()[0] = 1;
  }
  EXPECT_DEATH(static_cast<volatile int32_t*>(piece.host<int32_t>())[0] = 1, "use-after-poison");
}

TEST(ArenaDeathTest, WhatNobodyTookIsCaught) {
  Arena arena("watched", {});
  arena.allocate(1024);
  const Tensor piece = arena.take(DType::kI32, {1});
  EXPECT_DEATH(static_cast<volatile char*>(piece.raw())[512] = 1, "use-after-poison");
}
#endif

}  // namespace
}  // namespace deeptitan

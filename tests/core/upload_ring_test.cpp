#include "core/upload_ring.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

#include "core/transfer.h"
#include "support/expect_error.h"
#include "support/gpu.h"

namespace deeptitan {
namespace {

TEST(UploadRing, CopiesAtOnceOnTheCpu) {
  UploadRing ring({}, 8, 2);
  std::array<int32_t, 4> target{};
  ring.begin();
  ring.add<int32_t>({}, Tensor(target.data(), DType::kI32, {4}), std::vector<int32_t>{1, 2, 3, 4});
  ring.end({});
  EXPECT_EQ(target, (std::array<int32_t, 4>{1, 2, 3, 4}));
  expect_runtime_error(
      [&] { ring.add<int32_t>({}, Tensor(target.data(), DType::kI32, {4}), std::vector<int32_t>{1}); },
      "an upload to i32 [4] from i32 [1]; expected a contiguous tensor of as many elements of the same type");
}

// Sets come back to the rooms of earlier ones; what arrives is what was there when it was added.
TEST(UploadRing, KeepsSetsApartOnAGpu) {
  Device gpu;
  DT_TAKE_GPU(gpu);
  const Stream stream(gpu);
  Arena arena("targets", gpu);
  constexpr int64_t kSets = 9, kCount = 1000;
  arena.take(DType::kI32, {kSets, kCount});
  arena.allocate();
  const Tensor targets = arena.take(DType::kI32, {kSets, kCount});
  UploadRing ring(gpu, kCount * 4, 2);
  std::vector<int32_t> values(kCount), expected;
  for (int32_t set = 0; set < kSets; ++set) {
    values.assign(kCount, set);
    expected.insert(expected.end(), values.begin(), values.end());
    ring.begin();
    ring.add<int32_t>(stream, targets.rows(set, set + 1).reshape({kCount}), values);
    ring.end(stream);
  }
  stream.synchronize();
  EXPECT_EQ(download<int32_t>(targets), expected);
  ring.begin();
  expect_runtime_error([&] { ring.add(stream, targets.raw(), expected.data(), 4001); },
                       "a set of uploads was planned for 4000 bytes; 4001 more were asked for after 0");
}

}  // namespace
}  // namespace deeptitan

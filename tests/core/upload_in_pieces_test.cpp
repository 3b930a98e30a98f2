#include "core/upload_in_pieces.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/arena.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "core/transfer.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

// On a GPU where there is one: the CPU's copies are done at once.
TEST(UploadInPieces, EachPieceArrivesWhereItBelongs) {
  const Device device = choose_device("auto").device;
  constexpr int64_t kPieces = 500, kRoom = 5000;
  std::mt19937 random(1);
  std::vector<int64_t> offset = {0};
  for (int64_t i = 0; i < kPieces; ++i) offset.push_back(offset.back() + static_cast<int64_t>(random() % kRoom));
  std::vector<uint8_t> expected(static_cast<size_t>(offset.back()));
  for (uint8_t& byte : expected) byte = static_cast<uint8_t>(random());

  Arena arena("target", device);
  arena.take(DType::kU8, {offset.back()});
  arena.allocate();
  const Tensor target = arena.take(DType::kU8, {offset.back()});
  upload_in_pieces(device, kPieces, kRoom, [&](int64_t piece, const UploadRoom& room) {
    const int64_t bytes = offset[piece + 1] - offset[piece];
    std::memcpy(room.memory(), expected.data() + offset[piece], static_cast<size_t>(bytes));
    char* to = static_cast<char*>(target.raw()) + offset[piece];
    const int64_t half = bytes / 2;  // a room can go to several places
    room.copy(to + half, half, bytes - half);
    room.copy(to, 0, half);
  });
  std::vector<uint8_t> arrived(expected.size());
  copy_tensor(Tensor(arrived.data(), DType::kU8, {offset.back()}), target);
  EXPECT_TRUE(arrived == expected);
}

TEST(UploadInPieces, TheFirstFailureInTheirOrderIsThrown) {
  const Device device = choose_device("auto").device;
  for (int turn = 0; turn < 20; ++turn) {
    expect_runtime_error(
        [&] {
          upload_in_pieces(device, 200, 64, [&](int64_t piece, const UploadRoom&) {
            if (piece >= 37 && piece % 2 == 1) fail("piece {} is damaged", piece);
          });
        },
        "piece 37 is damaged");
  }
}

TEST(UploadInPieces, NoPiecesAreNothingToDo) {
  upload_in_pieces({}, 0, 0, [](int64_t, const UploadRoom&) { FAIL(); });
}

}  // namespace
}  // namespace deeptitan

#include "checkpoint/optimizer_slots.h"

#include <numeric>

#include <gtest/gtest.h>

#include "core/bfloat16.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

std::vector<float> values_from(int64_t begin, int64_t end) {
  std::vector<float> values(static_cast<size_t>(end - begin));
  std::iota(values.begin(), values.end(), static_cast<float>(begin));
  return values;
}

void write_rank(const TemporaryFolder& folder, int64_t rank, const std::vector<SlotSlice>& slices) {
  SlotWriter writer(folder.path(), rank, slices);
  for (const SlotSlice& slice : slices) writer.write(slice, values_from(slice.begin, slice.end).data());
  writer.finish();
}

TEST(OptimizerSlots, AnyLayoutOfRanksIsReadAsAnyOther) {
  const TemporaryFolder folder;
  const std::string w = "model.layers.0.mlp.experts.3.gate_proj.weight";
  write_rank(folder, 0, {{"first_moment", w, 0, 40}, {"first_moment", "b", 0, 3}});
  write_rank(folder, 1, {{"first_moment", w, 70, 100}});
  write_rank(folder, 2, {{"first_moment", w, 40, 70}, {"second_moment", w, 0, 100}});
  const SlotReader reader(folder.path());
  reader.check({{"first_moment", w, 0, 100}, {"first_moment", "b", 0, 3}, {"second_moment", w, 0, 100}});
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 100}, {0, 1}, {39, 71}, {45, 46}, {99, 100}}) {
    std::vector<float> values(static_cast<size_t>(end - begin));
    reader.read({"first_moment", w, begin, end}, values.data());
    EXPECT_EQ(values, values_from(begin, end));
  }
  std::vector<float> beyond(101);
  EXPECT_EQ(message_of([&] {
              reader.read({"first_moment", w, 0, 101}, beyond.data());
            }),
            folder.path().string() + " lacks first_moment:" + w + "[0:101] from element 100 on");
}

TEST(OptimizerSlots, ElementsOfOneTypeAreReadAsTheOther) {
  const TemporaryFolder folder;
  write_rank(folder, 0, {{"first_moment", "w", 0, 20}});
  const SlotSlice half{"first_moment", "w", 20, 40, DType::kBF16};
  std::vector<bfloat16> narrow;
  for (int64_t i = half.begin; i < half.end; ++i) narrow.push_back(to_bfloat16(static_cast<float>(i)));
  SlotWriter writer(folder.path(), 1, {half});
  writer.write(half, narrow.data());
  writer.finish();
  const SlotReader reader(folder.path());
  reader.check({{"first_moment", "w", 0, 40}});
  std::vector<float> wide(30);
  reader.read({"first_moment", "w", 5, 35}, wide.data());
  EXPECT_EQ(wide, values_from(5, 35));
  std::vector<bfloat16> read(30);
  reader.read({"first_moment", "w", 5, 35, DType::kBF16}, read.data());
  for (int64_t i = 0; i < 30; ++i) EXPECT_EQ(to_float(read[i]), static_cast<float>(i + 5));
}

TEST(OptimizerSlots, GapsOverlapsAndStrangersAreNamed) {
  const std::string where = "was it written by another configuration?";
  const auto refusal = [&](const std::vector<SlotSlice>& written, const std::vector<SlotSlice>& wanted) {
    const TemporaryFolder folder;
    for (size_t i = 0; i < written.size(); ++i) write_rank(folder, static_cast<int64_t>(i), {written[i]});
    const SlotReader reader(folder.path());
    const std::string message = message_of([&] { reader.check(wanted); });
    return message.starts_with(folder.path().string()) ? message.substr(folder.path().string().size()) : message;
  };
  const SlotSlice whole{"m", "w", 0, 10};
  EXPECT_EQ(refusal({whole}, {whole}), "no error");
  EXPECT_EQ(refusal({{"m", "w", 0, 4}, {"m", "w", 5, 10}}, {whole}),
            ": of m:w the elements from 4 to 5 are there nowhere");
  EXPECT_EQ(refusal({{"m", "w", 0, 6}, {"m", "w", 5, 10}}, {whole}),
            ": of m:w the elements from 5 to 6 are there twice");
  EXPECT_EQ(refusal({{"m", "w", 0, 9}}, {whole}), ": m:w has 9 elements, this run needs 10; " + where);
  EXPECT_EQ(refusal({{"m", "x", 0, 10}}, {whole}), " lacks m:w; " + where);
  EXPECT_EQ(refusal({whole, {"m", "x", 0, 10}}, {whole}), " has m:x, which this run does not know; " + where);
}

TEST(OptimizerSlots, WhatIsNoSliceIsNamed) {
  const TemporaryFolder folder;
  EXPECT_EQ(message_of([&] { SlotReader reader(folder.path()); }),
            folder.path().string() + " holds no optimizer-rank-*.safetensors");
  for (const char* name : {"w", "m:w", "m:w[0:2", "m:w[1:2]", "m:w[-1:1]", ":w[0:2]", "m:w[0:99999999999999999999]"}) {
    SafetensorsWriter writer(folder / "optimizer-rank-00000.safetensors", {{name, DType::kF32, {2}}});
    const float values[] = {1, 2};
    writer.write(name, values, sizeof values);
    writer.finish();
    EXPECT_NE(message_of([&] { SlotReader reader(folder.path()); }).find("is not a slice"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace deeptitan

#include "checkpoint/training_state.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "checkpoint/atomic_directory.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

const std::vector<TensorDeclaration> kState = {{"adam.first.w", DType::kF32, {2, 3}},
                                               {"router.bias", DType::kF32, {4}}};

void write_state(const fs::path& directory, int64_t step, uint64_t max_shard_bytes = 1 << 20) {
  TrainingStateWriter writer(directory, kState, max_shard_bytes);
  const float values[] = {1, 2, 3, 4, 5, static_cast<float>(step)};
  writer.write("adam.first.w", values, 24);
  writer.write("router.bias", values, 16);
  TrainingStateMetadata metadata;
  metadata.set_integer("step", step);
  writer.finish(metadata);
}

void write_checkpoint(const fs::path& folder, int64_t step) {
  AtomicDirectory directory(folder / checkpoint_name(step));
  write_state(directory.path() / kTrainingStateDirectory, step);
  directory.commit();
}

std::vector<int64_t> steps_in(const fs::path& folder) {
  std::vector<int64_t> steps;
  for (const auto& checkpoint : list_checkpoints(folder)) steps.push_back(checkpoint.step);
  return steps;
}

TEST(TrainingStateMetadata, EveryBitComesBack) {
  TrainingStateMetadata metadata;
  const double reals[] = {0.1, 1.0 / 3, -0.0, 5e-324, 1.7976931348623157e308, 3.0};
  for (size_t i = 0; i < std::size(reals); ++i) metadata.set_real("real" + std::to_string(i), reals[i]);
  metadata.set_integer("least", INT64_MIN);
  metadata.set_integer("most", INT64_MAX);
  metadata.set_text("config", "a = \"b\"\n\xc3\xa4\t");
  const auto back = TrainingStateMetadata::parse(metadata.dump(), "state.json");
  for (size_t i = 0; i < std::size(reals); ++i) {
    const double value = back.real("real" + std::to_string(i));
    EXPECT_EQ(std::memcmp(&value, &reals[i], sizeof value), 0) << reals[i];
  }
  EXPECT_EQ(back.integer("least"), INT64_MIN);
  EXPECT_EQ(back.integer("most"), INT64_MAX);
  EXPECT_EQ(back.text("config"), "a = \"b\"\n\xc3\xa4\t");
  EXPECT_TRUE(back.contains("most"));
  EXPECT_FALSE(back.contains("middle"));
}

TEST(TrainingStateMetadata, NamesWhatIsWrong) {
  const auto metadata = TrainingStateMetadata::parse(R"({"step":1,"rate":0.5,"config":"x"})", "s.json");
  EXPECT_EQ(message_of([&] { metadata.integer("tokens"); }),
            "s.json has no value \"tokens\"; it was written by another version or is damaged");
  EXPECT_EQ(message_of([&] { metadata.integer("rate"); }), "s.json: \"rate\" must be a whole number");
  EXPECT_EQ(message_of([&] { metadata.real("step"); }), "s.json: \"step\" must be a real number");
  EXPECT_EQ(message_of([&] { metadata.text("step"); }), "s.json: \"step\" must be text");
  EXPECT_EQ(message_of([] { TrainingStateMetadata::parse("{", "s.json"); }),
            "s.json: not valid JSON: it ends too early (byte 2); the checkpoint is damaged, resume from another");
  EXPECT_EQ(message_of([] { TrainingStateMetadata::parse("[]", "s.json"); }),
            "s.json must hold a JSON object, found array");
  for (const char* value : {"[1]", "18446744073709551615", "null", "true"}) {
    EXPECT_EQ(message_of([&] {
                TrainingStateMetadata::parse(std::string("{\"a\":") + value + "}", "s.json");
              }).rfind("s.json: a must be a number of at most 63 bits or text, found ", 0),
              0u)
        << value;
  }
  TrainingStateMetadata fresh;
  EXPECT_EQ(message_of([&] { fresh.set_real("loss", std::numeric_limits<double>::infinity()); }),
            "training state: loss must be finite, found inf");
}

TEST(TrainingState, ComesBackWholeAndSharded) {
  for (const uint64_t max_shard_bytes : {uint64_t{1} << 20, uint64_t{20}}) {
    const TemporaryFolder directory;
    write_state(directory.path(), 100, max_shard_bytes);
    EXPECT_EQ(fs::exists(directory / "state.safetensors.index.json"), max_shard_bytes == 20);
    const TrainingStateReader reader(directory.path());
    reader.check(kState);
    EXPECT_EQ(reader.metadata().integer("step"), 100);
    float values[6];
    reader.read("adam.first.w", values, sizeof values);
    EXPECT_EQ(values[5], 100.0f);
    EXPECT_EQ(message_of([&] { reader.read("adam.first.w", values, 20); }),
              directory.path().string() + ": tensor adam.first.w has 24 bytes, this run needs 20");
  }
}

TEST(TrainingState, ChecksNameTheTensor) {
  const TemporaryFolder directory;
  const std::string path = directory.path().string();
  EXPECT_EQ(message_of([&] { TrainingStateReader reader(directory.path()); }),
            path + " holds no training state: state.json is missing");
  write_state(directory.path(), 1);
  const TrainingStateReader reader(directory.path());
  const auto refusal = [&](const std::function<void(std::vector<TensorDeclaration>&)>& change) {
    auto expected = kState;
    change(expected);
    return message_of([&] { reader.check(expected); });
  };
  EXPECT_EQ(refusal([](auto& tensors) {
              tensors.push_back({"adam.second.w", DType::kF32, {2, 3}});
            }),
            path +
                " lacks 1 of the 3 tensors that this run needs, the first is adam.second.w; was it written by another "
                "configuration?");
  EXPECT_EQ(refusal([](auto& tensors) { tensors.pop_back(); }),
            path +
                " has 1 tensors that this run does not know, the first is router.bias; was it written by another "
                "configuration?");
  EXPECT_EQ(refusal([](auto& tensors) {
              tensors[0].shape = {3, 2};
            }),
            path + ": tensor adam.first.w is f32 [2, 3], this run needs f32 [3, 2]");
  EXPECT_EQ(refusal([](auto& tensors) { tensors[1].dtype = DType::kBF16; }),
            path + ": tensor router.bias is f32 [4], this run needs bf16 [4]");
}

TEST(Checkpoints, ListsKeepsAndRemoves) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder / "missing").empty());
  EXPECT_FALSE(latest_checkpoint(folder.path()).has_value());
  EXPECT_EQ(checkpoint_name(100), "step-00000100");
  for (const int64_t step : {int64_t{100}, int64_t{20}, int64_t{123'456'789}, int64_t{3}}) {
    write_checkpoint(folder.path(), step);
  }
  // None of these is a complete checkpoint.
  fs::create_directories(folder / "step-00000999");
  fs::create_directories(folder / "step-12" / "training_state");
  write_file(folder / "step-12" / "training_state" / "state.json", "{}");
  fs::create_directories(folder / "step-0000010x");
  EXPECT_EQ(steps_in(folder.path()), (std::vector<int64_t>{3, 20, 100, 123'456'789}));
  EXPECT_EQ(latest_checkpoint(folder.path())->path, folder / "step-123456789");
  EXPECT_EQ(message_of([&] { remove_old_checkpoints(folder.path(), 0); }),
            "at least 1 checkpoint must be kept, found 0");
  remove_old_checkpoints(folder.path(), 5);
  EXPECT_EQ(steps_in(folder.path()).size(), 4u);
  remove_old_checkpoints(folder.path(), 2);
  EXPECT_EQ(steps_in(folder.path()), (std::vector<int64_t>{100, 123'456'789}));
  EXPECT_TRUE(fs::exists(folder / "step-00000999"));
}

}  // namespace
}  // namespace deeptitan

#include "checkpoint/run_checkpoints.h"

#include <gtest/gtest.h>

#include "checkpoint/atomic_directory.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

void write_checkpoint(const fs::path& folder, int64_t step) {
  AtomicDirectory directory(folder / checkpoint_name(step));
  fs::create_directory(directory.path() / kTrainingStateDirectory);
  write_file(directory.path() / "config.json", "{}");
  write_file(directory.path() / kTrainingStateDirectory / "state.json", std::to_string(step));
  write_manifest(directory.path(), step);
  directory.commit();
}

std::vector<int64_t> steps_in(const fs::path& folder) {
  std::vector<int64_t> steps;
  for (const CheckpointEntry& checkpoint : list_checkpoints(folder)) steps.push_back(checkpoint.step);
  return steps;
}

TEST(RunCheckpoints, AreListedByStep) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder / "missing").empty());
  for (const int64_t step : {20, 100000000, 3}) write_checkpoint(folder.path(), step);
  fs::create_directory(folder / "step-00000007");  // nothing in it
  fs::create_directories(folder / "step-9" / "training_state");
  fs::create_directories(folder / "step-00000x10" / "training_state");
  EXPECT_EQ(steps_in(folder.path()), (std::vector<int64_t>{3, 20, 100000000}));
  EXPECT_EQ(latest_checkpoint(folder.path())->step, 100000000);
}

TEST(RunCheckpoints, TheLastGoodOneIsFoundAndTheDamagedOnesNamed) {
  const TemporaryFolder folder;
  for (const int64_t step : {10, 20, 30, 40}) write_checkpoint(folder.path(), step);
  // Another step's state, of the same length, and a checkpoint under another's name.
  fs::copy_file(folder / "step-00000010/training_state/state.json", folder / "step-00000030/training_state/state.json",
                fs::copy_options::overwrite_existing);
  fs::remove_all(folder / "step-00000040");
  fs::copy(folder / "step-00000020", folder / "step-00000040", fs::copy_options::recursive);
  const GoodCheckpoint good = last_good_checkpoint(list_checkpoints(folder.path()));
  EXPECT_EQ(good.checkpoint->step, 20);
  ASSERT_EQ(good.damaged.size(), 2u);
  EXPECT_EQ(good.damaged[0].reason, (folder / "step-00000040").string() + " holds step 20, not the step of its name");
  EXPECT_TRUE(
      good.damaged[1].reason.starts_with((folder / "step-00000030/training_state/state.json was altered").string()))
      << good.damaged[1].reason;
}

TEST(RunCheckpoints, OneOfAnEarlierVersionIsRefusedByName) {
  const TemporaryFolder folder;
  folder.write("step-00000010/training_state/state.json", "{}");
  const auto checkpoints = list_checkpoints(folder.path());
  ASSERT_EQ(checkpoints.size(), 1u);
  const std::string path = checkpoints[0].path.string();
  EXPECT_EQ(message_of([&] { verify_checkpoint(checkpoints[0]); }),
            path +
                " has no manifest.json: an earlier version of deeptitan wrote it, or the file was lost. Its model can "
                "still be trained on, with model.initial_checkpoint = " +
                path + " and another job.dump_folder");
}

TEST(RunCheckpoints, OldOnesAreRemovedAndForeignFilesStay) {
  const TemporaryFolder folder;
  for (int64_t step = 1; step <= 5; ++step) write_checkpoint(folder.path(), step);
  folder.write("step-00000002/notes.txt", "mine");
  remove_old_checkpoints(folder.path(), 2);
  EXPECT_EQ(steps_in(folder.path()), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(read_file(folder / "set-aside-1-step-00000002/notes.txt"), "mine");
  EXPECT_EQ(message_of([&] { remove_old_checkpoints(folder.path(), 0); }),
            "at least 1 checkpoint must be kept, found 0");
}

}  // namespace
}  // namespace deeptitan

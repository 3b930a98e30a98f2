// Checkpoints that are written while steps go on: the bytes of those that training waits for, and what is left of them
// where writing fails.

#include <atomic>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/run_checkpoints.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/rank_layout.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"
#include "train/checkpoint_saver.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using testing::random_batch;
using testing::run_on_mesh;
using testing::twelve_experts;

constexpr int64_t kSaverLength = 11;

// An engine, and what saves its checkpoints beside its steps.
struct SavedTraining {
  explicit SavedTraining(const RankGroups& groups, std::vector<std::string> freeze = {}) {
    TrainingEngineOptions options;
    options.seq_len = kSaverLength;
    options.sequences = 1;
    options.freeze = std::move(freeze);
    options.router_bias_update_speed = 0.01;
    options.groups = groups;
    if (groups.pipelined()) options.schedule = one_f_one_b_schedule(groups.pipeline->size(), 1);
    engine = std::make_unique<TrainingEngine>(twelve_experts(), options);
    snapshot = std::make_unique<CheckpointSnapshot>(*engine);
    engine->allocate();
    snapshot->allocate();
    engine->initialize(3);
    saver = std::make_unique<CheckpointSaver>(*engine, *snapshot);
  }

  double step(int64_t step) {
    const int64_t targets = kSaverLength * ranks_in(engine->options().groups.data);
    engine->begin_step(step, 0.01, targets, 1);
    const auto seed = static_cast<uint64_t>(100 * step + rank_in(engine->options().groups.data));
    engine->add_microbatch(random_batch(twelve_experts(), 1, kSaverLength, seed));
    return engine->finish_step().gradient_norm;
  }
  void begin(const fs::path& folder, int64_t step) {
    saver->begin(folder, {.step = step, .tokens = 7, .data = {}, .config = "x"}, {}, 1);
  }

  std::unique_ptr<TrainingEngine> engine;
  std::unique_ptr<CheckpointSnapshot> snapshot;
  std::unique_ptr<CheckpointSaver> saver;
};

// A thread that is held until it is let go.
class Hold {
 public:
  std::function<void()> stop() {
    return [this] {
      while (!free_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
  }
  void let_go() { free_ = true; }

 private:
  std::atomic<bool> free_ = false;
};

// Every file below a folder, by its path there; "" where there is none.
std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  }
  return files;
}

TEST(CheckpointSaver, WhatIsWrittenBesideStepsHasTheBytesOfWhatTheyWaitFor) {
  for (const Mesh& mesh :
       {Mesh{}, Mesh{.ep = 3}, Mesh{.ep = 2, .dp_shard = 2}, Mesh{.ep = 2, .dp_replicate = 2}, Mesh{.pp = 2}}) {
    SCOPED_TRACE(mesh.describe());
    const TemporaryFolder folder;
    std::vector<double> norms(mesh.world()), undisturbed(mesh.world());
    run_on_mesh(mesh, [&](const RankGroups& groups) {
      const int rank = rank_in(groups.world);
      {
        SavedTraining training(groups, {"model.layers.0.*"});
        for (int64_t step = 1; step <= 2; ++step) training.step(step);
        save_checkpoint(folder.path() / "waited", {.step = 2, .tokens = 7, .data = {}, .config = "x"}, *training.engine,
                        {}, 1);
        undisturbed[rank] = training.step(3) + training.step(4);
      }
      SavedTraining training(groups, {"model.layers.0.*"});
      for (int64_t step = 1; step <= 2; ++step) training.step(step);
      Hold hold;
      training.saver->before_writing = hold.stop();
      training.begin(folder.path() / "beside", 2);
      norms[rank] = training.step(3) + training.step(4);
      EXPECT_TRUE(training.saver->at_work());
      hold.let_go();
      training.saver->wait();
      EXPECT_FALSE(training.saver->on_its_way());
    });
    EXPECT_EQ(norms, undisturbed);
    verify_checkpoint(list_checkpoints(folder.path() / "beside").at(0));
    const auto waited = files_in(folder.path() / "waited"), beside = files_in(folder.path() / "beside");
    EXPECT_GE(waited.size(), 5U);
    EXPECT_TRUE(beside == waited);
  }
}

// The file's directory is gone when the last rank's thread comes to it, which all ranks say; what was there stays.
TEST(CheckpointSaver, WhatCannotBeWrittenIsSaidOnAllRanksAndTheOneBeforeStays) {
  for (const int ranks : {1, 2}) {
    const TemporaryFolder folder;
    std::vector<std::string> messages(ranks);
    run_on_mesh({.dp_shard = ranks}, [&](const RankGroups& groups) {
      const int rank = rank_in(groups.world);
      SavedTraining training(groups);
      training.begin(folder.path(), 1);
      training.saver->wait();
      if (rank + 1 == ranks) {
        training.saver->before_writing = [&] {
          for (const auto& entry : fs::directory_iterator(folder.path())) {
            if (entry.path().filename().string().starts_with(".step-00000002")) {
              fs::remove_all(entry.path() / "training_state");
            }
          }
        };
      }
      training.begin(folder.path(), 2);
      messages[rank] = message_of([&] { training.saver->wait(); });
      EXPECT_FALSE(training.saver->on_its_way());
    });
    for (const std::string& message : messages) {
      EXPECT_TRUE(message.starts_with("cannot ") && message.find(folder.path().string()) != std::string::npos)
          << message;
      EXPECT_EQ(message, messages[0]);
    }
    ASSERT_EQ(list_checkpoints(folder.path()).size(), 1U);
    EXPECT_EQ(latest_checkpoint(folder.path())->step, 1);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "nothing half-written is left";
  }
}

// The old one goes when the new one is in place.
TEST(CheckpointSaver, OnlyAWholeCheckpointReplacesTheOneBefore) {
  const TemporaryFolder folder;
  SavedTraining training({});
  training.begin(folder.path(), 1);
  training.saver->wait();
  Hold hold;
  training.saver->before_writing = hold.stop();
  training.begin(folder.path(), 2);
  EXPECT_EQ(latest_checkpoint(folder.path())->step, 1);
  hold.let_go();
  training.saver->wait();
  ASSERT_EQ(list_checkpoints(folder.path()).size(), 1U);
  EXPECT_EQ(latest_checkpoint(folder.path())->step, 2);
}

TEST(CheckpointSaver, OneThatIsOnItsWayIsEndedByOneProcessAndGivenUpByRanks) {
  for (const int ranks : {1, 2}) {
    const TemporaryFolder folder;
    run_on_mesh({.dp_shard = ranks}, [&](const RankGroups& groups) {
      SavedTraining training(groups);
      training.begin(folder.path(), 1);
      training.saver = nullptr;
    });
    const std::vector<CheckpointEntry> entries = list_checkpoints(folder.path());
    ASSERT_EQ(entries.size(), ranks == 1 ? 1U : 0U);
    if (ranks == 1) verify_checkpoint(entries.front());
  }
}

TEST(CheckpointSaver, GivingUpLeavesNothing) {
  const TemporaryFolder folder;
  SavedTraining training({});
  training.begin(folder.path(), 1);
  training.saver->give_up();
  EXPECT_FALSE(training.saver->on_its_way());
  training.begin(folder.path(), 2);
  training.saver->wait();
  EXPECT_EQ(latest_checkpoint(folder.path())->step, 2);
}

// Twelve bytes a trained element, and four of what else is written in fp32.
TEST(CheckpointSaver, TheCopyIsPlanned) {
  SavedTraining training({});
  int64_t trained = 0, others = 0;
  for (const Parameter& p : training.engine->model().parameters().all()) {
    (p.gradient.defined() ? trained : others) += p.numel();
  }
  const int64_t expected = 12 * trained + 4 * others;
  EXPECT_GE(training.snapshot->bytes(), expected);
  EXPECT_LT(training.snapshot->bytes(), expected + expected / 10);
}

}  // namespace
}  // namespace deeptitan

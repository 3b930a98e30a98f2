#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>

#include "train/checkpoint_snapshot.h"
#include "train/training_checkpoint.h"

namespace deeptitan {

/// Saves checkpoints beside training: copies what they hold between two steps, and writes the copy on a thread of its
/// own while steps go on. One is on its way at a time. Ranks exchange on the thread that trains alone; how far a
/// checkpoint is they learn between steps, so that none waits for another's disk.
class CheckpointSaver {
 public:
  /// `snapshot` has its memory; both outlive the saver.
  CheckpointSaver(TrainingEngine& engine, CheckpointSnapshot& snapshot) : engine_(engine), snapshot_(snapshot) {}
  /// One process alone ends the checkpoint that is on its way; ranks, which cannot any more, give it up.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Begins what save_checkpoint does. All ranks, between two steps; none is on its way.
  void begin(const std::filesystem::path& folder, const TrainingProgress& progress, const ModelExport& how,
             int64_t keep);
  /// Whether one is on its way, on all ranks alike.
  bool on_its_way() const { return stage_ != Stage::kNone; }
  /// Whether this rank's thread is at work.
  bool at_work() const { return at_work_; }
  /// All ranks, when none is at work: takes the next step of the checkpoint that is on its way, and throws on all what
  /// has gone wrong on one.
  void advance();
  /// All ranks: returns when none is on its way any more.
  void wait();
  /// Lets go of one that is on its way, and of what went wrong with it.
  void give_up();

  /// Called on the thread before it writes, so that tests can hold it there.
  std::function<void()> before_writing = nullptr;

 private:
  enum class Stage { kNone, kWriting, kFinishing };

  bool alone() const;
  bool any_at_work() const;
  void run(const std::function<void()>& work);
  void join();

  TrainingEngine& engine_;
  CheckpointSnapshot& snapshot_;
  Stage stage_ = Stage::kNone;
  std::unique_ptr<CheckpointWriting> writing_;
  std::atomic<bool> at_work_ = false;
  std::thread thread_;
};

}  // namespace deeptitan

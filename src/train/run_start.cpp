#include "train/run_start.h"

#include <string>
#include <utility>

#include <fmt/format.h>

#include "comm/rank_texts.h"
#include "core/error.h"
#include "core/log.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

// Which checkpoint to begin from, and whether the folder may be used at all.
RunStart find_start(const RunConfig& config, const TrainerOptions& options, RunFolder& folder) {
  RunStart start;
  const ResumeMode mode = options.replay_step ? ResumeMode::kAuto : options.resume;
  const std::string root = folder.root().string();
  if (!options.replay_step) {
    folder.lock();
    folder.check_inputs(config);
  }
  if (mode == ResumeMode::kNew) {
    DT_CHECK_USAGE(!folder.holds_a_run() && list_checkpoints(folder.checkpoints()).empty(),
                   "{} holds a run already; go on with it (--resume auto), replace it (--overwrite), or name another "
                   "folder (--job.dump_folder)",
                   root);
    folder.check_free(/*resuming=*/false);
    return start;
  }
  if (mode == ResumeMode::kOverwrite) {
    folder.check_clearable();
    return start;
  }
  std::vector<CheckpointEntry> checkpoints = list_checkpoints(folder.checkpoints());
  if (options.replay_step) {
    DT_CHECK_USAGE(*options.replay_step >= 1, "--replay-step {}: steps count from 1", *options.replay_step);
    DT_CHECK_USAGE(!checkpoints.empty() || folder.holds_a_run(), "{} holds no run to replay a step of", root);
    std::erase_if(checkpoints, [&](const CheckpointEntry& c) { return c.step >= *options.replay_step; });
  } else {
    folder.check_free(/*resuming=*/!checkpoints.empty());
  }
  if (mode == ResumeMode::kStep) {
    std::erase_if(checkpoints, [&](const CheckpointEntry& c) { return c.step > options.resume_step; });
    DT_CHECK_USAGE(!checkpoints.empty() && checkpoints.back().step == options.resume_step,
                   "{} has no checkpoint of step {}", folder.checkpoints().string(), options.resume_step);
  }
  DT_CHECK_USAGE(!checkpoints.empty() || mode == ResumeMode::kAuto, "{} holds no complete checkpoint to resume from",
                 folder.checkpoints().string());
  if (checkpoints.empty()) return start;
  GoodCheckpoint good = last_good_checkpoint(checkpoints);
  start.damaged = std::move(good.damaged);
  start.checkpoint = std::move(good.checkpoint);
  if (start.damaged.empty()) return start;
  for (const DamagedCheckpoint& d : start.damaged)
    log_warning(fmt::format("checkpoint of step {}: {}", d.checkpoint.step, d.reason));
  DT_CHECK(start.checkpoint,
           "no checkpoint in {} is whole; begin anew with --overwrite, or in another folder (--job.dump_folder)",
           folder.checkpoints().string());
  DT_CHECK(mode == ResumeMode::kAuto,
           "the checkpoint of step {} is damaged; the last good one is {}: go on with --resume {}",
           start.damaged.front().checkpoint.step, start.checkpoint->path.string(), start.checkpoint->step);
  log_warning(fmt::format("going on from the last good one, step {}", start.checkpoint->step));
  return start;
}

}  // namespace

// The first rank looks, which may mean to read whole checkpoints, and the others begin where it does.
RunStart find_start_of_all(const RunConfig& config, const TrainerOptions& options, RunFolder& folder,
                           const RunRanks& ranks) {
  RunStart start;
  if (!ranks.alone()) ranks.host()->set_deadline(config.parallelism.data_deadline_seconds);
  const std::string step = on_first_rank(ranks.host(), [&] {
    start = find_start(config, options, folder);
    return start.checkpoint ? std::to_string(start.checkpoint->step) : std::string();
  });
  if (ranks.first() || step.empty()) return start;
  start.checkpoint = CheckpointEntry{std::stoll(step), folder.checkpoints() / checkpoint_name(std::stoll(step))};
  DT_CHECK_USAGE(fs::exists(start.checkpoint->path),
                 "rank {} does not see {}, from which rank 0 goes on; all ranks need the same job.dump_folder, on a "
                 "file system that they share",
                 ranks.rank(), start.checkpoint->path.string());
  return start;
}

}  // namespace deeptitan

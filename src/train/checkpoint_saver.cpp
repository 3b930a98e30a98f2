#include "train/checkpoint_saver.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/rank_texts.h"
#include "core/error.h"

namespace deeptitan {
namespace {

// Of a thread that works beside those that train, which wait for each other: it takes what they leave.
constexpr int kNiceness = 10;
constexpr auto kPause = std::chrono::milliseconds(20);

// Signals are for the thread that trains. Threads begin with the mask of the one that makes them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

CheckpointSaver::~CheckpointSaver() {
  if (writing_ != nullptr && !alone()) writing_->cancel();
  join();
}

bool CheckpointSaver::alone() const {
  return ranks_in(engine_.options().groups.host) == 1;
}

void CheckpointSaver::begin(const std::filesystem::path& folder, const TrainingProgress& progress,
                            const ModelExport& how, int64_t keep) {
  DT_CHECK(!on_its_way(), "a checkpoint is on its way while the one of step {} begins", progress.step);
  writing_ = std::make_unique<CheckpointWriting>(folder, progress, engine_, how, keep, &snapshot_);
  snapshot_.take();
  stage_ = Stage::kWriting;
  run([this] {
    if (before_writing) before_writing();
    writing_->write();
    if (alone()) writing_->finish();
  });
}

void CheckpointSaver::run(const std::function<void()>& work) {
  const SignalsBlocked blocked;
  at_work_ = true;
  thread_ = std::thread([this, work] {
    // Of this thread, on Linux. Where it may not be, it works as the others do.
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNiceness);
    work();
    at_work_ = false;
  });
}

void CheckpointSaver::join() {
  if (thread_.joinable()) thread_.join();
}

void CheckpointSaver::advance() {
  if (!on_its_way()) return;
  join();
  // What throws ends it.
  const Stage stage = std::exchange(stage_, Stage::kNone);
  std::unique_ptr<CheckpointWriting> writing = std::move(writing_);
  if (stage == Stage::kWriting) writing->gather();
  if (stage == Stage::kFinishing || alone()) return writing->close();
  writing_ = std::move(writing);
  stage_ = Stage::kFinishing;
  if (rank_in(engine_.options().groups.host) == 0) run([this] { writing_->finish(); });
}

// The ranks look together, so that none waits for another longer than for one look.
bool CheckpointSaver::any_at_work() const {
  const std::vector<std::string> ranks =
      on_each_rank(engine_.options().groups.host, [&] { return at_work_ ? "1" : "0"; });
  return std::find(ranks.begin(), ranks.end(), "1") != ranks.end();
}

void CheckpointSaver::wait() {
  while (on_its_way()) {
    while (!alone() && any_at_work()) std::this_thread::sleep_for(kPause);
    advance();
  }
}

void CheckpointSaver::give_up() {
  if (writing_ != nullptr) writing_->cancel();
  join();
  writing_ = nullptr;
  stage_ = Stage::kNone;
}

}  // namespace deeptitan

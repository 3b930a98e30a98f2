#include "comm/nccl_handle.h"

#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "comm/nccl_library.h"
#include "core/clock.h"
#include "core/error.h"

namespace deeptitan {
namespace {

constexpr double kBusySeconds = 0.01;  // looked for without a pause
constexpr auto kPause = std::chrono::microseconds(100);

}  // namespace

ncclUniqueId NcclHandle::make_unique_id() {
  ncclUniqueId id;
  DT_NCCL_CHECK(nccl().get_unique_id(&id));
  return id;
}

NcclHandle::NcclHandle(const ncclUniqueId& id, int n_ranks, int rank, double deadline)
    : rank_(rank), n_ranks_(n_ranks) {
  DT_CHECK(n_ranks >= 1 && rank >= 0 && rank < n_ranks, "NCCL communicator: rank {} is not in [0, {})", rank, n_ranks);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t begun = nccl().comm_init_rank_config(&communicator_, n_ranks, id, rank, &config);
  try {
    finish(begun, "ncclCommInitRankConfig", [&](double waited) {
      DT_CHECK(waited < deadline,
               "rank {} of {} has waited {:g} s for NCCL to connect it with the others: one has stopped, hangs, or "
               "cannot be reached; run with NCCL_DEBUG=INFO to see how far each comes",
               rank, n_ranks, deadline);
    });
  } catch (...) {
    abort();
    throw;
  }
}

NcclHandle::~NcclHandle() {
  if (communicator_ == nullptr) return;
  // It waits for the others, each of which may have ended by an error.
  if (nccl().comm_destroy(communicator_) == ncclInProgress) {
    ncclResult_t state = ncclInProgress;
    const double begin = monotonic_seconds();
    while (monotonic_seconds() - begin < 5 && nccl().comm_get_async_error(communicator_, &state) == ncclSuccess &&
           state == ncclInProgress) {
      std::this_thread::sleep_for(kPause);
    }
  }
}

void NcclHandle::finish(ncclResult_t status, const char* call, const std::function<void(double)>& late) const {
  double begin = 0;
  // Some calls say that all is well before it is.
  if (status == ncclSuccess) status = ncclInProgress;
  while (status == ncclInProgress) {
    DT_NCCL_CHECK(nccl().comm_get_async_error(communicator_, &status));
    if (status != ncclInProgress) break;
    const double now = monotonic_seconds();
    if (begin == 0) begin = now;
    late(now - begin);
    if (now - begin > kBusySeconds) {
      std::this_thread::sleep_for(kPause);
    } else {
      std::this_thread::yield();
    }
  }
  DT_CHECK(status == ncclSuccess, "{} failed: {} ({}); run with NCCL_DEBUG=WARN to see why", call,
           nccl().get_error_string(status), nccl().get_last_error(communicator_));
}

void NcclHandle::run_group(const std::function<void()>& body, const std::function<void(double)>& late) const {
  DT_CHECK(!aborted(), "NCCL: this group was given up after an error");
  DT_NCCL_CHECK(nccl().group_start());
  try {
    body();
  } catch (...) {
    (void)nccl().group_end();
    throw;
  }
  finish(nccl().group_end(), "ncclGroupEnd", late);
}

// NCCL first tells the kernels that wait for others to end, and then waits until all graphs that hold its exchanges
// have been destroyed: by who calls this, behind it.
void NcclHandle::abort() noexcept {
  if (communicator_ == nullptr) return;
  const ncclComm_t communicator = std::exchange(communicator_, nullptr);
  try {
    std::thread([communicator] { (void)nccl().comm_abort(communicator); }).detach();
  } catch (const std::system_error&) {  // there is no thread to be had
    (void)nccl().comm_abort(communicator);
  }
}

}  // namespace deeptitan

#include "comm/nccl_communicator.h"

#include "core/error.h"

namespace deeptitan {

void check_nccl(ncclResult_t status, const char* call, const char* file, int line) {
  DT_CHECK(status == ncclSuccess, "{} failed: {}, at {}:{}; run with NCCL_DEBUG=WARN to see why", call,
           ncclGetErrorString(status), file, line);
}

ncclUniqueId NcclCommunicator::make_unique_id() {
  ncclUniqueId id;
  DT_NCCL_CHECK(ncclGetUniqueId(&id));
  return id;
}

NcclCommunicator::NcclCommunicator(const ncclUniqueId& id, int n_ranks, int rank) : rank_(rank), n_ranks_(n_ranks) {
  DT_CHECK(n_ranks >= 1 && rank >= 0 && rank < n_ranks, "NCCL communicator: rank {} is not in [0, {})", rank, n_ranks);
  DT_NCCL_CHECK(ncclCommInitRank(&communicator_, n_ranks, id, rank));
}

NcclCommunicator::~NcclCommunicator() {
  if (communicator_ != nullptr) (void)ncclCommDestroy(communicator_);
}

}  // namespace deeptitan

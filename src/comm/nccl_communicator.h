#pragma once

#include <nccl.h>

namespace deeptitan {

/// Throws Error naming the NCCL call that failed, its error and its place, unless `status` is success.
void check_nccl(ncclResult_t status, const char* call, const char* file, int line);

/// One rank's NCCL communicator.
class NcclCommunicator {
 public:
  /// An id that one rank makes and hands to all others (over MPI, a file, shared memory).
  static ncclUniqueId make_unique_id();

  /// Collective over n_ranks processes, each with the same id and its own device made current. Throws Error.
  NcclCommunicator(const ncclUniqueId& id, int n_ranks, int rank);
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  ~NcclCommunicator();

  ncclComm_t get() const { return communicator_; }
  int rank() const { return rank_; }
  int n_ranks() const { return n_ranks_; }

 private:
  ncclComm_t communicator_ = nullptr;
  int rank_;
  int n_ranks_;
};

}  // namespace deeptitan

/// Checks an NCCL call: DT_NCCL_CHECK(ncclMemAlloc(...)).
#define DT_NCCL_CHECK(call) ::deeptitan::check_nccl(call, #call, __FILE__, __LINE__)

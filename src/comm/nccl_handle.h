#pragma once

#include <nccl.h>

#include <functional>
#include <string>

namespace deeptitan {

/// One rank's NCCL communicator. It is made and used without blocking calls: each is polled, so that a rank that never
/// comes is an error after a deadline, and not a process that nothing ends.
class NcclHandle {
 public:
  /// An id that one rank makes and hands to all others (over MPI, a file, shared memory).
  static ncclUniqueId make_unique_id();

  /// Collective over n_ranks processes, each with the same id and its own device made current. Throws Error, also where
  /// the others do not come within `deadline` seconds.
  NcclHandle(const ncclUniqueId& id, int n_ranks, int rank, double deadline = 300);
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;
  ~NcclHandle();

  ncclComm_t get() const { return communicator_; }
  int rank() const { return rank_; }
  int n_ranks() const { return n_ranks_; }

  /// Queues what `body` sends and receives as one exchange, and returns when it is queued. `late` throws where that
  /// takes too long; it is given the seconds that have passed.
  void run_group(const std::function<void()>& body, const std::function<void(double)>& late) const;
  /// Waits until the call that returned `status` is over.
  void finish(ncclResult_t status, const char* call, const std::function<void(double)>& late) const;

  /// Ends what is queued, here; of no use from then on. Does not wait until it has ended. The others find out by
  /// themselves.
  void abort() noexcept;
  bool aborted() const { return communicator_ == nullptr; }

 private:
  ncclComm_t communicator_ = nullptr;
  int rank_;
  int n_ranks_;
};

}  // namespace deeptitan

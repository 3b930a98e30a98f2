#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/nccl_handle.h"
#include "comm/nccl_staging.h"

namespace deeptitan {

/// What has been queued and may hang, so that a wait that takes too long can say for what.
class NcclOperations {
 public:
  void add(const ExecutionContext& ctx, const Stream& stream, const char* operation, const std::string& group,
           const std::vector<int>& ranks);
  /// "all_reduce of group dp, in step 3, for one of ranks 0, 2": the oldest that is not over. Empty: all are.
  std::string oldest() const;

 private:
  struct Queued {
    Event over;
    const char* operation;
    std::string group;
    std::vector<int> ranks;
    int64_t step;
  };
  std::deque<Queued> queued_;
};

/// A group of the world's ranks that exchange tensors of their GPUs over NCCL. Everything is made of sends and
/// receives; sums are made here, in the order of the ranks, so that they have the bits of HostCommunicator's and depend
/// on no algorithm of NCCL's (ADR 0033).
class NcclCommunicator final : public Communicator {
 public:
  /// One direction between two ranks, with a stream of its own: what is sent waits for who receives it, and nothing
  /// else waits for that.
  struct Link {
    std::shared_ptr<NcclHandle> handle;  // of the two, the sender is rank 0
    Stream stream;
  };
  struct Parts {
    std::string name;
    std::vector<int> ranks;  // the world's numbers, in the group's order
    int rank = 0;            // this one's place among them
    Device device;
    std::shared_ptr<NcclHandle> handle;  // of all of them; nullptr: one rank
    std::shared_ptr<NcclStaging> staging;
    std::shared_ptr<NcclOperations> operations;
    std::map<int, Link> to, from;  // by the group's rank; of those that send and receive one by one
    double deadline = 300;
  };
  explicit NcclCommunicator(Parts parts) : parts_(std::move(parts)) {}

  int rank() const override { return parts_.rank; }
  int size() const override { return static_cast<int>(parts_.ranks.size()); }
  const std::string& name() const override { return parts_.name; }
  double deadline() const override { return parts_.deadline; }
  void set_deadline(double seconds) override { parts_.deadline = seconds; }

  void queued_graph(ExecutionContext& ctx) override;

  /// NCCL's own, of all ranks of the group: for symmetric windows. There is none where the group has one rank.
  NcclHandle& handle() const;

 private:
  struct Sent {
    const void* data;
    Event over;
  };
  // One message of an exchange: bytes to or from a rank of the group.
  struct Message {
    char* data;
    int64_t bytes;
    int rank;
    bool sends;
  };

  void exchange(ExecutionContext& ctx, const char* operation, std::span<const Message> messages);
  void run_on(ExecutionContext& ctx, NcclHandle& handle, const Stream& stream, const char* operation,
              std::span<const Message> messages);
  void add_up(ExecutionContext& ctx, const char* operation, const Tensor& x, std::span<const int64_t> parts);
  void gather(ExecutionContext& ctx, const char* operation, const Tensor& x, std::span<const int64_t> parts);
  const Link& link(const std::map<int, Link>& links, int rank) const;

  void run_all_reduce(ExecutionContext& ctx, const Tensor& x) override;
  void run_reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) override;
  void run_all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) override;
  void run_all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                      const Tensor& send, std::span<const int64_t> send_rows) override;
  void run_send(ExecutionContext& ctx, const Tensor& x, int to) override;
  void run_finish_sends(ExecutionContext& ctx, const Tensor& x) override;
  void run_receive(ExecutionContext& ctx, const Tensor& x, int from) override;
  void run_broadcast(ExecutionContext& ctx, const Tensor& x, int root) override;
  void run_barrier(ExecutionContext& ctx) override;

  Parts parts_;
  std::vector<Sent> sent_;
};

}  // namespace deeptitan

#pragma once

#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/transport.h"

namespace deeptitan {

/// How long a rank waits for another, in seconds, where nothing else is said.
inline constexpr double kDefaultDeadline = 300;
/// Of a rank that waits for what somebody may type, or not: it then looks rarely, and takes no core's time.
inline constexpr double kNoDeadline = std::numeric_limits<double>::infinity();

/// A group of the world's ranks that exchange tensors of the CPU's memory over a transport. Every rank of the group
/// exchanges with every other directly, so that whoever waits knows for whom; sums are made here, in the order of the
/// ranks, so that their bits depend on no library.
class HostCommunicator final : public Communicator {
 public:
  /// `ranks` are the world's numbers of the group's ranks, this process's among them, in the group's order; `channel`
  /// is a number that no other group of any of them has. The transport outlives the group.
  HostCommunicator(Transport& transport, std::string name, std::vector<int> ranks, int channel,
                   double deadline = kDefaultDeadline);
  ~HostCommunicator() override;
  HostCommunicator(const HostCommunicator&) = delete;
  HostCommunicator& operator=(const HostCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  const std::string& name() const override { return name_; }
  double deadline() const override { return deadline_; }
  void set_deadline(double seconds) override { deadline_ = seconds; }

 private:
  // A message, and the group's rank at its other end.
  struct Pending {
    Transport::Message message;
    int rank;
  };
  class Exchange;
  struct SentTensor;

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

  // "in step 7", for messages.
  std::string when(const ExecutionContext& ctx) const;
  int64_t staging_bytes() const override;
  void reserve_staging();
  // Part r of x is added up on rank r, in slices that fit into staging_.
  void add_up(Exchange& exchange, const Tensor& x, std::span<const int64_t> parts);
  void gather(Exchange& exchange, const Tensor& x, std::span<const int64_t> parts);

  Transport& transport_;
  std::string name_;
  std::vector<int> ranks_;
  int rank_ = 0;
  int channel_;
  double deadline_;
  int64_t last_step_ = 0;      // of what was exchanged here
  std::vector<char> staging_;  // what other ranks' parts come into, before they are added
  std::deque<SentTensor> sent_;
};

}  // namespace deeptitan

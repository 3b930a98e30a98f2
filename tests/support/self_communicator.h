#pragma once

#include <string>
#include <utility>

#include "comm/communicator.h"

namespace deeptitan {

/// The group of one rank, on any device, for tests of what every group checks: nothing is exchanged, and an all_to_all
/// is a copy on `ctx.communication`.
class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(std::string name) : name_(std::move(name)) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  const std::string& name() const override { return name_; }
  double deadline() const override { return deadline_; }
  void set_deadline(double seconds) override { deadline_ = seconds; }

 private:
  void run_all_reduce(ExecutionContext& /*ctx*/, const Tensor& /*x*/) override {}
  void run_reduce_scatter(ExecutionContext& /*ctx*/, const Tensor& /*x*/, std::span<const int64_t> /*parts*/) override {
  }
  void run_all_gather(ExecutionContext& /*ctx*/, const Tensor& /*x*/, std::span<const int64_t> /*parts*/) override {}
  void run_all_to_all(ExecutionContext& ctx, const Tensor& receive, std::span<const int64_t> receive_rows,
                      const Tensor& send, std::span<const int64_t> /*send_rows*/) override {
    if (receive_rows[0] > 0) ctx.communication.copy(receive.raw(), send.raw(), send.rows(0, receive_rows[0]).bytes());
  }
  void run_send(ExecutionContext& /*ctx*/, const Tensor& /*x*/, int /*to*/) override {}  // refused: no other rank
  void run_finish_sends(ExecutionContext& /*ctx*/, const Tensor& /*x*/) override {}
  void run_receive(ExecutionContext& /*ctx*/, const Tensor& /*x*/, int /*from*/) override {}
  void run_broadcast(ExecutionContext& /*ctx*/, const Tensor& /*x*/, int /*root*/) override {}
  void run_barrier(ExecutionContext& /*ctx*/) override {}

  std::string name_;
  double deadline_ = 0;
};

}  // namespace deeptitan

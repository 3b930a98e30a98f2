#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/all_to_all/all_to_all.h"

namespace deeptitan {

/// This rank's device memory for the exchanges and barriers over one window: their epochs, what the exchanges found,
/// and the word for the first failed wait. All zero at first; kernels count the epochs up, so that launches need no
/// host state and can be replayed from a CUDA graph. Lives and dies with the window's signal pads: after an error open
/// both anew.
class SignalState {
 public:
  SignalState();
  SignalState(const SignalState&) = delete;
  SignalState& operator=(const SignalState&) = delete;
  ~SignalState();

  cuda::AllToAllState* all_to_all() const { return &device_->all_to_all; }
  cuda::AllToAllStatus* status() const { return &device_->status; }
  uint32_t* barrier_epoch() const { return &device_->barrier_epoch; }
  uint64_t* error() const { return &device_->error; }

  /// Throws Error saying who waited for whom if a wait has failed. Waits for `stream`: not for the hot path.
  void check(int64_t timeout_ns, cudaStream_t stream) const;
  /// What the exchanges found. Waits for `stream`.
  cuda::AllToAllStatus read_status(cudaStream_t stream) const;

 private:
  struct Words {
    cuda::AllToAllState all_to_all;
    uint64_t error;
    uint32_t barrier_epoch;
    cuda::AllToAllStatus status;
  };
  Words read(cudaStream_t stream) const;

  Words* device_ = nullptr;
};

}  // namespace deeptitan

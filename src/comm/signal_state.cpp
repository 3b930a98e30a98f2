#include "comm/signal_state.h"

#include "kernels/cuda/barrier/wait_error.h"
#include "kernels/cuda/error.h"

namespace deeptitan {

SignalState::SignalState() {
  DT_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&device_), sizeof(Words)));
  DT_CUDA_CHECK(cudaMemset(device_, 0, sizeof(Words)));
}

SignalState::~SignalState() {
  (void)cudaFree(device_);
}

void SignalState::check(int64_t timeout_ns, cudaStream_t stream) const {
  cuda::check_wait_error(read(stream).error, timeout_ns);
}

cuda::AllToAllStatus SignalState::read_status(cudaStream_t stream) const {
  return read(stream).status;
}

SignalState::Words SignalState::read(cudaStream_t stream) const {
  Words words;
  DT_CUDA_CHECK(cudaMemcpyAsync(&words, device_, sizeof(Words), cudaMemcpyDeviceToHost, stream));
  DT_CUDA_CHECK(cudaStreamSynchronize(stream));
  return words;
}

}  // namespace deeptitan

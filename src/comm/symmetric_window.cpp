#include "comm/symmetric_window.h"

#include <cuda_runtime_api.h>
#include <nccl_device.h>

#include "comm/window_pointers.h"
#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

/// A window's device structure changes between NCCL's minor releases, and window_pointers.cu reads it inline.
void check_nccl_release() {
  int loaded = 0;
  DT_NCCL_CHECK(ncclGetVersion(&loaded));
  DT_CHECK(loaded / 100 == NCCL_VERSION_CODE / 100,
           "symmetric window: NCCL {}.{} is loaded, but this program was compiled against {}.{}; put that release's "
           "libnccl.so.2 first in LD_LIBRARY_PATH, or compile against the one that is there",
           loaded / 10000, loaded / 100 % 100, NCCL_MAJOR, NCCL_MINOR);
}

}  // namespace

SymmetricWindow::SymmetricWindow(const NcclCommunicator& communicator, size_t bytes)
    : communicator_(communicator.get()), bytes_(bytes) {
  const int n_ranks = communicator.n_ranks();
  DT_CHECK(bytes > 0, "symmetric window: 0 bytes asked for");
  DT_CHECK(n_ranks <= cuda::kMaxPeerRanks, "symmetric window: {} ranks; kernels hold pointers to at most {}", n_ranks,
           cuda::kMaxPeerRanks);
  check_nccl_release();
  const int domain = ncclTeamLsa(communicator_).nRanks;
  DT_CHECK(domain == n_ranks,
           "symmetric window: of {} ranks only {} can reach each other's memory over NVLink; make the expert group no "
           "larger than that, or use the dispatcher all_to_all",
           n_ranks, domain);
  try {
    DT_NCCL_CHECK(ncclMemAlloc(&allocation_, bytes));
    // Registration is a barrier among the ranks, so everyone's zeros are written before anyone's pad is used.
    DT_CUDA_CHECK(cudaMemset(allocation_, 0, bytes));
    DT_CUDA_CHECK(cudaDeviceSynchronize());
    DT_NCCL_CHECK(ncclCommWindowRegister(communicator_, allocation_, bytes, &window_, NCCL_WIN_COLL_SYMMETRIC));
    // Without support for symmetric memory NCCL reports success and returns no window, or a handle of the host.
    cudaPointerAttributes attributes{};
    const bool on_device = window_ != nullptr && cudaPointerGetAttributes(&attributes, window_) == cudaSuccess &&
                           attributes.type == cudaMemoryTypeDevice;
    DT_CHECK(
        on_device,
        "symmetric window: NCCL cannot map the peers' memory here; it needs peer access between all GPUs and CUDA's "
        "virtual memory management (NCCL_CUMEM_ENABLE must not be 0)");
    peers_.rank = communicator.rank();
    peers_.n_ranks = n_ranks;
    read_window_pointers(window_, n_ranks, peers_.base);
  } catch (...) {
    release();
    throw;
  }
}

SymmetricWindow::~SymmetricWindow() {
  release();
}

void SymmetricWindow::release() {
  if (window_ != nullptr) (void)ncclCommWindowDeregister(communicator_, window_);
  if (allocation_ != nullptr) (void)ncclMemFree(allocation_);
}

}  // namespace deeptitan

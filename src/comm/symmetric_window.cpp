#include "comm/symmetric_window.h"

#include <cuda_runtime_api.h>
#include <nccl_device.h>

#include "comm/nccl_communicator.h"
#include "comm/nccl_library.h"
#include "comm/window_pointers.h"
#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

/// A window's device structure changes between NCCL's minor releases, and window_pointers.cu reads it inline.
void check_nccl_release() {
  int loaded = 0;
  DT_NCCL_CHECK(nccl().get_version(&loaded));
  DT_CHECK(loaded / 100 == NCCL_VERSION_CODE / 100,
           "symmetric window: NCCL {}.{} is loaded, but this program was compiled against {}.{}; put that release's "
           "libnccl.so.2 first in LD_LIBRARY_PATH, or compile against the one that is there",
           loaded / 10000, loaded / 100 % 100, NCCL_MAJOR, NCCL_MINOR);
}

}  // namespace

SymmetricWindow::SymmetricWindow(const NcclHandle& communicator, size_t bytes, double deadline)
    : communicator_(communicator), bytes_(bytes) {
  const int n_ranks = communicator.n_ranks();
  DT_CHECK(bytes > 0, "symmetric window: 0 bytes asked for");
  DT_CHECK(n_ranks <= cuda::kMaxPeerRanks, "symmetric window: {} ranks; kernels hold pointers to at most {}", n_ranks,
           cuda::kMaxPeerRanks);
  check_nccl_release();
  const int domain = nccl().team_lsa(communicator_.get()).nRanks;
  DT_CHECK(domain == n_ranks,
           "symmetric window: of {} ranks only {} can reach each other's memory over NVLink; make the expert group no "
           "larger than that, or use the dispatcher all_to_all",
           n_ranks, domain);
  try {
    DT_NCCL_CHECK(nccl().mem_alloc(&allocation_, bytes));
    // Registration is a barrier among the ranks, so everyone's zeros are written before anyone's pad is used.
    DT_CUDA_CHECK(cudaMemset(allocation_, 0, bytes));
    DT_CUDA_CHECK(cudaDeviceSynchronize());
    const ncclResult_t begun =
        nccl().comm_window_register(communicator_.get(), allocation_, bytes, &window_, NCCL_WIN_COLL_SYMMETRIC);
    communicator.finish(begun, "ncclCommWindowRegister", [&](double waited) {
      DT_CHECK(waited < deadline,
               "symmetric window: rank {} of {} has waited {:g} s for the others, of which one has stopped or hangs",
               communicator.rank(), n_ranks, deadline);
    });
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
  if (communicator_.aborted()) return;  // it has taken the mapping with it
  if (window_ != nullptr) (void)nccl().comm_window_deregister(communicator_.get(), window_);
  if (allocation_ != nullptr) (void)nccl().mem_free(allocation_);
}

std::unique_ptr<SymmetricWindow> make_symmetric_window(const Communicator& group, size_t bytes) {
  const auto* over_nccl = dynamic_cast<const NcclCommunicator*>(&group);
  DT_CHECK(over_nccl != nullptr, "symmetric window: group {} exchanges what lies in the host's memory, not on GPUs",
           group.name());
  return std::make_unique<SymmetricWindow>(over_nccl->handle(), bytes, group.deadline());
}

}  // namespace deeptitan

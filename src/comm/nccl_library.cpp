#include "comm/nccl_library.h"

#include "core/error.h"

namespace deeptitan {

const SharedLibrary& nccl_library() {
  static const SharedLibrary library("libnccl.so.2", DT_NCCL_FOLDER);
  return library;
}

const Nccl& nccl() {
  static const Nccl found = [] {
    const SharedLibrary& library = nccl_library();
    Nccl n;
    library.find(n.comm_abort, "ncclCommAbort");
    library.find(n.comm_destroy, "ncclCommDestroy");
    library.find(n.comm_get_async_error, "ncclCommGetAsyncError");
    library.find(n.comm_init_rank_config, "ncclCommInitRankConfig");
    library.find(n.comm_window_deregister, "ncclCommWindowDeregister");
    library.find(n.comm_window_register, "ncclCommWindowRegister");
    library.find(n.get_error_string, "ncclGetErrorString");
    library.find(n.get_last_error, "ncclGetLastError");
    library.find(n.get_unique_id, "ncclGetUniqueId");
    library.find(n.get_version, "ncclGetVersion");
    library.find(n.group_end, "ncclGroupEnd");
    library.find(n.group_start, "ncclGroupStart");
    library.find(n.mem_alloc, "ncclMemAlloc");
    library.find(n.mem_free, "ncclMemFree");
    library.find(n.recv, "ncclRecv");
    library.find(n.send, "ncclSend");
    library.find(n.team_lsa, "ncclTeamLsa");
    return n;
  }();
  return found;
}

void check_nccl(ncclResult_t status, const char* call, const char* file, int line) {
  DT_CHECK(status == ncclSuccess, "{} failed: {}, at {}:{}; run with NCCL_DEBUG=WARN to see why", call,
           nccl().get_error_string(status), file, line);
}

}  // namespace deeptitan

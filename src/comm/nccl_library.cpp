#include "comm/nccl_library.h"

#include "core/error.h"

namespace deeptitan {
namespace {

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(nccl_library().function(name));
}

}  // namespace

const SharedLibrary& nccl_library() {
  static const SharedLibrary library("libnccl.so.2", DT_NCCL_FOLDER);
  return library;
}

const Nccl& nccl() {
  static const Nccl found = [] {
    Nccl n;
    find(n.comm_abort, "ncclCommAbort");
    find(n.comm_destroy, "ncclCommDestroy");
    find(n.comm_get_async_error, "ncclCommGetAsyncError");
    find(n.comm_init_rank_config, "ncclCommInitRankConfig");
    find(n.comm_window_deregister, "ncclCommWindowDeregister");
    find(n.comm_window_register, "ncclCommWindowRegister");
    find(n.get_error_string, "ncclGetErrorString");
    find(n.get_last_error, "ncclGetLastError");
    find(n.get_unique_id, "ncclGetUniqueId");
    find(n.get_version, "ncclGetVersion");
    find(n.group_end, "ncclGroupEnd");
    find(n.group_start, "ncclGroupStart");
    find(n.mem_alloc, "ncclMemAlloc");
    find(n.mem_free, "ncclMemFree");
    find(n.recv, "ncclRecv");
    find(n.send, "ncclSend");
    find(n.team_lsa, "ncclTeamLsa");
    return n;
  }();
  return found;
}

void check_nccl(ncclResult_t status, const char* call, const char* file, int line) {
  DT_CHECK(status == ncclSuccess, "{} failed: {}, at {}:{}; run with NCCL_DEBUG=WARN to see why", call,
           nccl().get_error_string(status), file, line);
}

}  // namespace deeptitan

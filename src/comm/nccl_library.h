#pragma once

#include <nccl.h>
#include <nccl_device.h>

#include "core/shared_library.h"

namespace deeptitan {

/// NCCL, which the program does not carry; last looked for where the build found CUDA.
const SharedLibrary& nccl_library();

/// The functions of NCCL that are used, by the names of its header without their prefix.
struct Nccl {
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommWindowDeregister) comm_window_deregister;
  decltype(&ncclCommWindowRegister) comm_window_register;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclMemAlloc) mem_alloc;
  decltype(&ncclMemFree) mem_free;
  decltype(&ncclRecv) recv;
  decltype(&ncclSend) send;
  ncclTeam_t (*team_lsa)(ncclComm_t);
};

/// Opens the library when it is first asked for. Throws where it is not there, or is older than this build's.
const Nccl& nccl();

/// Throws Error naming the NCCL call that failed, its error and its place, unless `status` is success.
void check_nccl(ncclResult_t status, const char* call, const char* file, int line);

}  // namespace deeptitan

/// Checks an NCCL call: DT_NCCL_CHECK(nccl().mem_alloc(...)).
#define DT_NCCL_CHECK(call) ::deeptitan::check_nccl(call, #call, __FILE__, __LINE__)

#include "comm/rank_processes.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <vector>

#include <cuda_runtime_api.h>

#include "comm/nccl_handle.h"
#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

struct SharedPages {
  RankBoard board;
  char messages[64][2048];
};

void run_child(int rank, int n_ranks, SharedPages& shared, const std::function<void(int, RankBoard&)>& body) {
  int status = 0;
  try {
    DT_CUDA_CHECK(cudaSetDevice(rank));
    if (rank == 0) {
      shared.board.id = NcclHandle::make_unique_id();
      shared.board.id_written = 1;
    }
    while (shared.board.id_written == 0) sched_yield();
    body(rank, shared.board);
  } catch (const std::exception& error) {
    snprintf(shared.messages[rank], sizeof shared.messages[rank], "rank %d of %d: %s", rank, n_ranks, error.what());
    status = 1;
  }
  fflush(nullptr);
  _exit(status);
}

}  // namespace

void RankBoard::wait_for_all() {
  const int ticket = arrived++;
  const int goal = (ticket / n_ranks + 1) * n_ranks;
  while (arrived < goal) sched_yield();
}

int count_devices_in_child() {
  fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    _exit(count < 255 ? count : 255);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 0;
  return WEXITSTATUS(status);
}

std::string run_rank_processes(int n_ranks, const std::function<void(int rank, RankBoard& board)>& body) {
  DT_CHECK(n_ranks >= 1 && n_ranks <= 64, "rank processes: {} asked for, 1 to 64 are possible", n_ranks);
  void* pages = mmap(nullptr, sizeof(SharedPages), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  DT_CHECK(pages != MAP_FAILED, "rank processes: no shared memory");
  auto& shared = *static_cast<SharedPages*>(pages);
  shared.board.n_ranks = n_ranks;
  fflush(nullptr);
  std::vector<pid_t> children;
  for (int r = 0; r < n_ranks; ++r) {
    const pid_t child = fork();
    DT_CHECK(child >= 0, "rank processes: fork failed");
    if (child == 0) run_child(r, n_ranks, shared, body);
    children.push_back(child);
  }

  std::string failure;
  int ended = 0;
  int grace_ms = 10'000;
  while (ended < n_ranks) {
    int status = 0;
    bool none = true;
    for (int r = 0; r < n_ranks; ++r) {
      if (children[r] == 0 || waitpid(children[r], &status, WNOHANG) != children[r]) continue;
      children[r] = 0;
      ++ended;
      none = false;
      if (status == 0 || !failure.empty()) continue;
      failure = shared.messages[r][0] != '\0'
                    ? shared.messages[r]
                    : "rank " + std::to_string(r) + " ended with wait status " + std::to_string(status);
    }
    if (!none) continue;
    usleep(2000);
    if (failure.empty() || (grace_ms -= 2) > 0) continue;
    for (const pid_t child : children) {
      if (child != 0) kill(child, SIGKILL);
    }
  }
  munmap(pages, sizeof(SharedPages));
  return failure;
}

}  // namespace deeptitan

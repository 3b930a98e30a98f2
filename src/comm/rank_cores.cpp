#include "comm/rank_cores.h"

#include <algorithm>
#include <fstream>

namespace deeptitan {

std::string host_and_cores() {
  std::string host, line;
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  std::getline(boot, host);
  std::ifstream status("/proc/self/status");
  while (std::getline(status, line) && !line.starts_with("Cpus_allowed:")) {
  }
  return host + " " + line;
}

int threads_of_rank(const std::vector<std::string>& places, int rank, int cores) {
  return std::max(1, cores / static_cast<int>(std::count(places.begin(), places.end(), places[rank])));
}

}  // namespace deeptitan

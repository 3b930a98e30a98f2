#pragma once

#include <string>
#include <vector>

namespace deeptitan {

/// The host, which its containers share, and the cores of it that this process may run on. Source: proc(5).
std::string host_and_cores();

/// Threads for a rank that may run on `cores` cores. `places` are what host_and_cores says on all ranks: those that
/// have the same share the cores out evenly, one at least each. Sets of cores that overlap count as others.
int threads_of_rank(const std::vector<std::string>& places, int rank, int cores);

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <filesystem>

namespace deeptitan {

/// Bytes of memory that this process can still take without swapping and without being killed: what the system can give
/// (MemAvailable), or less where a control group, the process's own or one above it, of version 1 or 2, is limited to
/// less. What a group holds as page cache counts as free. The largest number there is where nothing can be read.
/// Sources: proc(5), cgroups(7), Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
/// `root` is where /proc and /sys are looked for.
int64_t available_host_memory(const std::filesystem::path& root = "/");

}  // namespace deeptitan

#include "core/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The number that a file holds; nothing where it is missing or says "max".
std::optional<int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return static_cast<int64_t>(std::min<uint64_t>(value, kUnlimited));
}

// The number behind `key` on a line of its own: "MemAvailable:  123 kB", "inactive_file 4096".
int64_t number_after(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    if (word != key) continue;
    uint64_t value = 0;
    return file >> value ? static_cast<int64_t>(std::min<uint64_t>(value, kUnlimited)) : 0;
  }
  return 0;
}

// A hierarchy of control groups that counts memory: where it is mounted, and which of its groups stands there.
struct Mount {
  fs::path point;
  std::string group;
  bool unified;  // version 2
};

std::vector<Mount> memory_mounts(const fs::path& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string id, parent, device, group, point, word;
    words >> id >> parent >> device >> group >> point;
    while (words >> word && word != "-") {
    }
    std::string type, source, options;
    words >> type >> source >> options;
    const bool counts_memory = ("," + options + ",").find(",memory,") != std::string::npos;
    if (type == "cgroup2" || (type == "cgroup" && counts_memory)) {
      mounts.push_back({root / fs::path(point).relative_path(), group, type == "cgroup2"});
    }
  }
  return mounts;
}

// The group of this process in the hierarchy of version 2 ("0::/a/b") or of the memory controller ("4:memory:/a/b").
std::string group_of_process(const fs::path& root, bool unified) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool wanted = unified ? controllers.empty() : ("," + controllers + ",").find(",memory,") != std::string::npos;
    if (wanted) return line.substr(second + 1);
  }
  return "/";
}

// What a group can still take: its limit less what it holds and cannot give back.
int64_t room_of(const fs::path& group, bool unified) {
  int64_t limit = kUnlimited;
  if (unified) {
    // Beyond memory.high a process is not killed, but it stands still.
    for (const char* name : {"memory.max", "memory.high"})
      limit = std::min(limit, number_in(group / name).value_or(limit));
  } else {
    limit = number_in(group / "memory.limit_in_bytes").value_or(limit);
    // Counts groups above the ones that a container sees.
    const int64_t inherited = number_after(group / "memory.stat", "hierarchical_memory_limit");
    if (inherited > 0) limit = std::min(limit, inherited);
  }
  // Version 1 writes "no limit" as the largest multiple of a page.
  if (limit >= kUnlimited / 4096 * 4096) return kUnlimited;
  const std::string total = unified ? "" : "total_";
  const int64_t used = number_in(group / (unified ? "memory.current" : "memory.usage_in_bytes")).value_or(0);
  const int64_t cache = number_after(group / "memory.stat", total + "inactive_file") +
                        number_after(group / "memory.stat", total + "active_file");
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

}  // namespace

int64_t available_host_memory(const fs::path& root) {
  const int64_t kilobytes = number_after(root / "proc/meminfo", "MemAvailable:");
  int64_t available = kilobytes > 0 ? kilobytes * 1024 : kUnlimited;
  for (const Mount& mount : memory_mounts(root)) {
    // In a container the mount may show a part of the hierarchy alone, which begins at mount.group.
    std::string group = group_of_process(root, mount.unified);
    if (mount.group != "/" && (group + "/").starts_with(mount.group + "/")) group.erase(0, mount.group.size());
    fs::path path = mount.point / fs::path(group).relative_path().lexically_normal();
    while (path != mount.point && path.has_relative_path()) {
      available = std::min(available, room_of(path, mount.unified));
      path = path.parent_path();
    }
    available = std::min(available, room_of(mount.point, mount.unified));
  }
  return available;
}

}  // namespace deeptitan

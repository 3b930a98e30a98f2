#include "core/mapping_guard.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <utility>

#include <unistd.h>

namespace deeptitan {
namespace {

// Fixed memory, because a signal handler reads it. A mapping that finds no place is not named.
struct Mapping {
  std::atomic<int> state = 0;  // 0 free, 1 being filled, 2 in use
  uintptr_t begin = 0;
  uintptr_t end = 0;
  std::array<char, 512> path{};
};
std::array<Mapping, 2048> mappings;

void write_text(const char* text) {
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
}

void on_lost_mapping(int signal, siginfo_t* info, void* /*context*/) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : mappings) {
    if (mapping.state.load() != 2 || address < mapping.begin || address >= mapping.end) continue;
    write_text("deeptitan: ");
    write_text(mapping.path.data());
    write_text(
        " was cut short, or its disk failed, while it was in use. What was saved before is whole; put the file back or "
        "remove it, then go on\n");
    ::_exit(1);
  }
  std::signal(signal, SIG_DFL);  // not ours: it comes again, and ends the program as it would have
}

}  // namespace

MappingGuard::MappingGuard(const std::filesystem::path& path, const void* address, size_t bytes) {
  for (size_t i = 0; i < mappings.size(); ++i) {
    int free = 0;
    if (!mappings[i].state.compare_exchange_strong(free, 1)) continue;
    mappings[i].begin = reinterpret_cast<uintptr_t>(address);
    mappings[i].end = mappings[i].begin + (bytes + 4095) / 4096 * 4096;
    const std::string& name = path.native();
    const size_t length = std::min(name.size(), mappings[i].path.size() - 1);
    std::memcpy(mappings[i].path.data(), name.data(), length);
    mappings[i].path[length] = '\0';
    mappings[i].state = 2;
    slot_ = static_cast<int>(i);
    return;
  }
}

MappingGuard::MappingGuard(MappingGuard&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}

MappingGuard& MappingGuard::operator=(MappingGuard&& other) noexcept {
  std::swap(slot_, other.slot_);
  return *this;
}

MappingGuard::~MappingGuard() {
  if (slot_ >= 0) mappings[static_cast<size_t>(slot_)].state = 0;
}

void report_lost_mappings() {
  struct sigaction action = {};
  action.sa_sigaction = on_lost_mapping;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace deeptitan

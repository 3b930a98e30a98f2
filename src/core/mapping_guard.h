#pragma once

#include <cstddef>
#include <filesystem>

namespace deeptitan {

/// Remembers, while it lives, which file lies at an address. A mapped file that somebody cuts short, or whose disk
/// fails, is a signal (SIGBUS) where it is read; with this the program can name it.
class MappingGuard {
 public:
  MappingGuard() = default;
  MappingGuard(const std::filesystem::path& path, const void* address, size_t bytes);
  MappingGuard(MappingGuard&& other) noexcept;
  MappingGuard& operator=(MappingGuard&& other) noexcept;
  ~MappingGuard();

 private:
  int slot_ = -1;
};

/// From now on such a signal ends the program with one line on stderr that names the file, and exit code 1.
void report_lost_mappings();

}  // namespace deeptitan

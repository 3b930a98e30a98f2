#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

#include "core/mapping_guard.h"

namespace deeptitan {

class File;

/// A file's bytes, read from the disk as they are touched and never copied.
class MappedFile {
 public:
  /// Throws Error if the file is missing or unreadable.
  explicit MappedFile(const std::filesystem::path& path);
  /// The same for a file that is open, and may have no name.
  explicit MappedFile(const File& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  MappingGuard guard_;
};

}  // namespace deeptitan

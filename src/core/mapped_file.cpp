#include "core/mapped_file.h"

#include <cerrno>
#include <utility>

#include <sys/mman.h>

#include "core/file.h"

namespace deeptitan {

MappedFile::MappedFile(const std::filesystem::path& path) : MappedFile(File::open(path)) {}

MappedFile::MappedFile(const File& file) {
  size_ = file.size();
  if (size_ == 0) return;  // an empty mapping is not allowed
  data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    fail_file("map", file.path(), errno);
  }
  guard_ = MappingGuard(file.path(), data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      guard_(std::move(other.guard_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(guard_, other.guard_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace deeptitan

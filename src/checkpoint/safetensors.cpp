#include "checkpoint/safetensors.h"

#include <cerrno>

#include <sys/mman.h>
#include <unistd.h>

#include "core/file.h"

namespace deeptitan {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  const File file = File::open(path);
  const uint64_t file_bytes = file.size();
  if (file_bytes > 0) {
    void* mapped = ::mmap(nullptr, file_bytes, PROT_READ, MAP_SHARED, file.descriptor(), 0);
    if (mapped == MAP_FAILED) fail_file("map", path, errno);
    mapping_ = static_cast<std::byte*>(mapped);
    mapping_bytes_ = file_bytes;
  }
  try {
    SafetensorsHeader header = parse_safetensors_header(mapping_, file_bytes, file_bytes, path.string());
    metadata_ = std::move(header.metadata);
    tensors_.reserve(header.tensors.size());
    for (auto& tensor : header.tensors) {
      tensors_.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), mapping_ + tensor.offset,
                          static_cast<size_t>(tensor.bytes)});
    }
    for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  } catch (...) {
    if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
    throw;
  }
  // Each byte is read once and mostly in order: read far ahead, and let pages that were used go first.
  ::madvise(mapping_, mapping_bytes_, MADV_SEQUENTIAL);
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void SafetensorsFile::prefetch(const TensorEntry& tensor) const {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(tensor.data) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(tensor.data) + tensor.bytes;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

void SafetensorsFile::release(const TensorEntry& tensor) const {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.data) + tensor.bytes) / page * page;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace deeptitan

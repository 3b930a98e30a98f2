#include "checkpoint/safetensors.h"

#include <cerrno>
#include <iterator>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

#include "checkpoint/stored_names.h"
#include "core/error.h"
#include "core/file.h"
#include "core/shown_text.h"

namespace deeptitan {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, Names names)
    : path_(path), file_(File::open(path)) {
  const uint64_t file_bytes = file_.size();
  if (file_bytes > 0) {
    void* mapped = ::mmap(nullptr, file_bytes, PROT_READ, MAP_SHARED, file_.descriptor(), 0);
    if (mapped == MAP_FAILED) fail_file("map", path, errno);
    mapping_ = static_cast<std::byte*>(mapped);
    mapping_bytes_ = file_bytes;
    guard_ = MappingGuard(path, mapping_, mapping_bytes_);
  }
  try {
    SafetensorsHeader header = parse_safetensors_header(mapping_, file_bytes, file_bytes, path.string());
    metadata_ = std::move(header.metadata);
    tensors_.reserve(header.tensors.size());
    for (auto& tensor : header.tensors) {
      add({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), mapping_ + tensor.offset,
           static_cast<size_t>(tensor.bytes)},
          names);
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      DT_CHECK(index_.emplace(tensors_[i].name, i).second, "{}: two tensors are tensor {} of the model", path.string(),
               shown(tensors_[i].name));
    }
  } catch (...) {
    if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
    throw;
  }
  // Each byte is read once and mostly in order: read far ahead, and let pages that were used go first.
  ::madvise(mapping_, mapping_bytes_, MADV_SEQUENTIAL);
}

void SafetensorsFile::add(TensorEntry tensor, Names names) {
  if (names == Names::kModel) {
    tensor.name = plain_tensor_name(tensor.name);
    if (is_fused_experts(tensor.name)) {
      std::vector<TensorEntry> parts = split_fused_experts(tensor, path_.string());
      split_.emplace(tensor.name, std::pair{tensors_.size(), tensors_.size() + parts.size()});
      tensors_.insert(tensors_.end(), std::make_move_iterator(parts.begin()), std::make_move_iterator(parts.end()));
      return;
    }
  }
  tensors_.push_back(std::move(tensor));
}

std::vector<std::string> SafetensorsFile::parts_of(std::string_view name) const {
  std::vector<std::string> parts;
  const auto found = split_.find(name);
  if (found == split_.end()) return parts;
  for (size_t i = found->second.first; i < found->second.second; ++i) parts.push_back(tensors_[i].name);
  return parts;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void SafetensorsFile::read(const TensorEntry& tensor, size_t first, size_t bytes, void* destination) const {
  file_.read_at(destination, bytes, static_cast<uint64_t>(tensor.data - mapping_) + first);
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

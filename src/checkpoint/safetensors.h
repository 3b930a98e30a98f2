#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "checkpoint/tensor_entry.h"
#include "core/file.h"
#include "core/mapping_guard.h"

namespace deeptitan {

/// A safetensors file mapped read-only (format: 8 bytes little-endian header length, a JSON header, the tensors' bytes;
/// https://github.com/huggingface/safetensors, section Format).
///
/// The header is checked whole before any tensor is handed out: its length, the JSON, duplicate names, dtypes, that
/// shape x dtype equals the byte range, and that the ranges cover the file without gap, overlap or rest. Each failure
/// is an Error that names the file and the tensor. Nothing is read of the tensors' bytes until they are used.
class SafetensorsFile {
 public:
  /// How tensors are handed out: as the file has them, or as a model's on the hub (checkpoint/stored_names.h).
  enum class Names { kStored, kModel };
  explicit SafetensorsFile(const std::filesystem::path& path, Names names = Names::kStored);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// In the order of their bytes in the file.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  /// nullptr if the file has no such tensor.
  const TensorEntry* find(std::string_view name) const;
  /// Names::kModel: the tensors that the file's tensor `name` was split into; empty if it was not.
  std::vector<std::string> parts_of(std::string_view name) const;
  /// The header's __metadata__, empty if it has none.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Reads `bytes` bytes of the tensor, from its byte `first` on, from the file: many threads do so side by side, where
  /// they would wait for each other's page faults in the mapping.
  void read(const TensorEntry& tensor, size_t first, size_t bytes, void* destination) const;

  /// Asks the kernel to read the tensor's pages ahead (madvise WILLNEED).
  void prefetch(const TensorEntry& tensor) const;
  /// Gives the pages that lie wholly inside the tensor back to the kernel (madvise DONTNEED), so that loading a file
  /// never holds more of it than the tensors in use. The tensor can still be read; it is then fetched again.
  void release(const TensorEntry& tensor) const;

 private:
  void add(TensorEntry tensor, Names names);

  std::filesystem::path path_;
  File file_;
  std::byte* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  MappingGuard guard_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string_view, size_t> index_;                   // keys are views of tensors_[i].name
  std::map<std::string, std::pair<size_t, size_t>, std::less<>> split_;  // places in tensors_ of a tensor's parts
  std::map<std::string, std::string> metadata_;
};

/// What parse_safetensors found: offsets are from the start of the file.
struct SafetensorsHeader {
  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    uint64_t offset;
    uint64_t bytes;
  };
  std::vector<Tensor> tensors;  // by offset
  std::map<std::string, std::string> metadata;
};

/// Checks and reads the header of a safetensors file whose first `available` bytes are at `data` (at least the header)
/// and whose size is `file_bytes`; `file` is its name in errors.
SafetensorsHeader parse_safetensors_header(const std::byte* data, uint64_t available, uint64_t file_bytes,
                                           std::string_view file);

}  // namespace deeptitan

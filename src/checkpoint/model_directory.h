#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace deeptitan {

/// The tensors of a Hugging Face model directory: `model.safetensors`, or `model.safetensors.index.json` and the shards
/// that it names. Every shard must be there when the directory is opened, but a shard is opened, mapped and checked
/// only when one of its tensors is first asked for. The index counts: what a shard holds beside its tensors is ignored.
/// Tensors have the names of the hub's files, also where a file stores them under others or the experts of a layer in
/// one tensor (checkpoint/stored_names.h). Functions may be called from several threads.
class ModelDirectory {
 public:
  /// Throws Error if the directory, its tensors or one of the index's shards is missing.
  /// `stem` takes the place of "model" in the files' names.
  explicit ModelDirectory(const std::filesystem::path& directory, std::string_view stem = "model");
  ~ModelDirectory();

  const std::filesystem::path& path() const { return directory_; }
  /// All tensors' names, sorted.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const;
  /// nullptr if there is no such tensor. Throws Error if the tensor's shard is damaged or differs from the index.
  const TensorEntry* find(std::string_view name) const;
  /// As find, but a missing tensor is an Error that names it.
  const TensorEntry& at(std::string_view name) const;

  /// Bytes of all its tensor files.
  uint64_t file_bytes() const;

  /// As SafetensorsFile::read, of a tensor of this directory.
  void read(const TensorEntry& tensor, size_t first, size_t bytes, void* destination) const;
  /// As SafetensorsFile::prefetch and release, for a tensor of this directory.
  void prefetch(const TensorEntry& tensor) const;
  void release(const TensorEntry& tensor) const;

 private:
  struct Shard {
    std::string file_name;
    mutable std::once_flag opened;
    mutable std::unique_ptr<SafetensorsFile> file;
  };
  const SafetensorsFile& open_shard(const Shard& shard) const;
  const Shard* shard_of(std::string_view name) const;
  void read_index(const std::filesystem::path& index_path);

  using Names = SafetensorsFile::Names;

  std::filesystem::path directory_;
  Names names_of_;
  std::string single_file_;  // "model.safetensors"
  std::string index_file_;   // "model.safetensors.index.json"
  std::vector<std::string> names_;
  std::vector<size_t> shard_of_name_;  // parallel to names_
  std::vector<std::unique_ptr<Shard>> shards_;
};

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/tensor_entry.h"
#include "core/digest.h"
#include "core/file.h"

namespace deeptitan {

/// What readers of the Hugging Face world expect to find in __metadata__.
std::map<std::string, std::string> default_safetensors_metadata();

/// Writes one safetensors file: all tensors are declared first, then their bytes come in pieces and in any order.
///
/// Room for the whole file is reserved at the start, so a full disk is found before the work. Larger element types come
/// first and the data starts at a multiple of 64, so every tensor is aligned to its elements. Not synced; a file that
/// was not finished is left as it is (write into an AtomicDirectory).
class SafetensorsWriter {
 public:
  /// Throws Error if a name comes twice or is "__metadata__", or the file cannot be created.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorDeclaration> tensors,
                    const std::map<std::string, std::string>& metadata = default_safetensors_metadata());

  /// Appends `bytes` bytes to the tensor, row-major, little-endian; throws Error if it was not declared or would grow
  /// beyond its declared size.
  void write(std::string_view name, const void* data, size_t bytes);
  /// Whether every declared byte has been written.
  bool complete() const { return bytes_left_ == 0; }
  /// Closes the file and returns its digest, which was kept while it was written (what comes in another order than in
  /// the file is read again); throws Error naming the first tensor that lacks bytes.
  FileDigest finish();

 private:
  struct Slot {
    TensorDeclaration declaration;
    uint64_t offset;
    uint64_t bytes;
    uint64_t written = 0;
  };
  std::vector<Slot> slots_;
  std::unordered_map<std::string_view, size_t> index_;
  void write_at(const void* data, size_t bytes, uint64_t offset);

  uint64_t bytes_left_ = 0;
  uint64_t file_bytes_ = 0;
  std::filesystem::path path_;
  std::unique_ptr<File> file_;
  Digest digest_;
  uint64_t hashed_ = 0;  // bytes from the file's beginning that are in the digest
};

/// Writes the safetensors of a Hugging Face model directory: `model.safetensors` if everything fits into one file of
/// max_shard_bytes, otherwise `model-00001-of-0000N.safetensors` and `model.safetensors.index.json` (weight_map, and
/// metadata.total_size = the sum of the tensors' bytes). Tensors go to shards in the order of their declaration; a
/// tensor larger than the limit gets a shard of its own. Shards are created as they are first written to and closed
/// as they become complete. Several writers can write a directory together: each the shards of its tensors, and one of
/// them the index.
class ShardedSafetensorsWriter {
 public:
  /// `stem` takes the place of "model" in the files' names.
  ShardedSafetensorsWriter(const std::filesystem::path& directory, std::vector<TensorDeclaration> tensors,
                           uint64_t max_shard_bytes, std::string stem = "model");

  /// What a directory's writers tell each other.
  struct Shards {
    std::map<std::string, std::string> file_of;  // by tensor
    std::map<std::string, FileDigest> digests;   // by file
    uint64_t tensor_bytes = 0;
  };

  /// Shards of this writer. Before anything is written they may be numbered among those of others: `first` come before
  /// them, and there are `all`.
  size_t shard_count() const { return shards_.size(); }
  void number(size_t first, size_t all);

  /// As SafetensorsWriter::write.
  void write(std::string_view name, const void* data, size_t bytes);
  /// Closes the shards, and returns what they are; throws Error naming the first tensor that lacks bytes.
  Shards finish_shards();
  /// Writes the index of all writers' shards, where there are several.
  static void write_index(const std::filesystem::path& directory, const Shards& all, const std::string& stem = "model");
  /// Both, of this writer's shards. Returns their digests by file name.
  std::map<std::string, FileDigest> finish();

 private:
  struct Shard {
    std::string file_name;
    std::vector<TensorDeclaration> tensors;  // moved into the writer when it is created
    std::unique_ptr<SafetensorsWriter> writer;
    bool finished = false;
    FileDigest digest = {};
  };
  SafetensorsWriter& open_shard(Shard& shard);

  std::filesystem::path directory_;
  std::string stem_;
  std::vector<Shard> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_;
  uint64_t total_bytes_ = 0;
};

}  // namespace deeptitan

#include "checkpoint/safetensors_writer.h"

#include <algorithm>
#include <numeric>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace deeptitan {
namespace {

using nlohmann::json;

constexpr uint64_t kDataAlignment = 64;

uint64_t byte_count(const TensorDeclaration& tensor) {
  return static_cast<uint64_t>(element_count(tensor.shape)) * dtype_size(tensor.dtype);
}

std::string header_entry(const TensorDeclaration& tensor, uint64_t begin, uint64_t end) {
  return fmt::format(R"({}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", json(tensor.name).dump(),
                     safetensors_dtype_name(tensor.dtype), json(tensor.shape).dump(), begin, end);
}

}  // namespace

std::map<std::string, std::string> default_safetensors_metadata() {
  return {{"format", "pt"}};
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorDeclaration> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return dtype_size(a.dtype) > dtype_size(b.dtype); });
  std::string header = fmt::format("{{\"__metadata__\":{}", json(metadata).dump());
  uint64_t end = 0;
  slots_.reserve(tensors.size());
  for (auto& tensor : tensors) {
    const uint64_t bytes = byte_count(tensor);
    header += ',';
    header += header_entry(tensor, end, end + bytes);
    slots_.push_back({std::move(tensor), end, bytes});
    end += bytes;
  }
  header += "}";
  header.resize((header.size() + 8 + kDataAlignment - 1) / kDataAlignment * kDataAlignment - 8, ' ');

  const uint64_t data_offset = 8 + header.size();
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].offset += data_offset;
    const std::string& name = slots_[i].declaration.name;
    DT_CHECK(name != "__metadata__", "a tensor cannot be called __metadata__, safetensors keeps that name for itself");
    DT_CHECK(index_.emplace(name, i).second, "{}: tensor {} is declared twice", path_.string(), name);
  }
  bytes_left_ = end;

  file_ = std::make_unique<File>(File::create(path));
  file_->reserve(data_offset + end);
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  file_bytes_ = data_offset + end;
  write_at(length, sizeof length, 0);
  write_at(header.data(), header.size(), 8);
}

void SafetensorsWriter::write_at(const void* data, size_t bytes, uint64_t offset) {
  file_->write_at(data, bytes, offset);
  if (offset != hashed_) return;
  digest_.add(data, bytes);
  hashed_ += bytes;
}

void SafetensorsWriter::write(std::string_view name, const void* data, size_t bytes) {
  const auto found = index_.find(name);
  DT_CHECK(found != index_.end(), "{}: tensor {} was not declared", path_.string(), name);
  DT_CHECK(file_ != nullptr, "{}: tensor {} is written after the file was finished", path_.string(), name);
  Slot& slot = slots_[found->second];
  DT_CHECK(bytes <= slot.bytes - slot.written, "{}: tensor {} was declared with {} bytes, {} are written",
           path_.string(), name, slot.bytes, slot.written + bytes);
  write_at(data, bytes, slot.offset + slot.written);
  slot.written += bytes;
  bytes_left_ -= bytes;
}

FileDigest SafetensorsWriter::finish() {
  for (const Slot& slot : slots_) {
    DT_CHECK(slot.written == slot.bytes, "{}: tensor {} was declared with {} bytes, only {} were written",
             path_.string(), slot.declaration.name, slot.bytes, slot.written);
  }
  file_.reset();
  return hashed_ == file_bytes_ ? FileDigest{file_bytes_, digest_.hex()} : digest_of_file(path_);
}

ShardedSafetensorsWriter::ShardedSafetensorsWriter(const std::filesystem::path& directory,
                                                   std::vector<TensorDeclaration> tensors, uint64_t max_shard_bytes,
                                                   std::string stem)
    : directory_(directory), stem_(std::move(stem)) {
  DT_CHECK_USAGE(max_shard_bytes > 0, "the largest shard must have at least 1 byte, found 0");
  uint64_t shard_bytes = 0;
  shards_.emplace_back();
  for (auto& tensor : tensors) {
    const uint64_t bytes = byte_count(tensor);
    if (shard_bytes > 0 && (shard_bytes >= max_shard_bytes || bytes > max_shard_bytes - shard_bytes)) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    total_bytes_ += bytes;
    DT_CHECK(shard_of_.emplace(tensor.name, shards_.size() - 1).second, "{}: tensor {} is declared twice",
             directory_.string(), tensor.name);
    shards_.back().tensors.push_back(std::move(tensor));
  }
  number(0, shards_.size());
}

void ShardedSafetensorsWriter::number(size_t first, size_t all) {
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].file_name =
        all == 1 ? stem_ + ".safetensors" : fmt::format("{}-{:05}-of-{:05}.safetensors", stem_, first + i + 1, all);
  }
}

SafetensorsWriter& ShardedSafetensorsWriter::open_shard(Shard& shard) {
  if (shard.writer == nullptr) {
    shard.writer = std::make_unique<SafetensorsWriter>(directory_ / shard.file_name, std::move(shard.tensors));
  }
  return *shard.writer;
}

void ShardedSafetensorsWriter::write(std::string_view name, const void* data, size_t bytes) {
  const auto found = shard_of_.find(name);
  DT_CHECK(found != shard_of_.end(), "{}: tensor {} was not declared", directory_.string(), name);
  Shard& shard = shards_[found->second];
  SafetensorsWriter& writer = open_shard(shard);
  writer.write(name, data, bytes);
  if (writer.complete() && !shard.finished) {
    shard.digest = writer.finish();
    shard.finished = true;
  }
}

ShardedSafetensorsWriter::Shards ShardedSafetensorsWriter::finish_shards() {
  Shards result;
  for (Shard& shard : shards_) {
    if (!shard.finished) shard.digest = open_shard(shard).finish();
    shard.finished = true;
    result.digests[shard.file_name] = shard.digest;
  }
  for (const auto& [name, shard] : shard_of_) result.file_of[name] = shards_[shard].file_name;
  result.tensor_bytes = total_bytes_;
  return result;
}

void ShardedSafetensorsWriter::write_index(const std::filesystem::path& directory, const Shards& all,
                                           const std::string& stem) {
  if (all.digests.size() == 1) return;
  const json index = {{"metadata", {{"total_size", all.tensor_bytes}}}, {"weight_map", all.file_of}};
  write_file(directory / (stem + ".safetensors.index.json"), index.dump(2) + "\n");
}

std::map<std::string, FileDigest> ShardedSafetensorsWriter::finish() {
  const Shards shards = finish_shards();
  write_index(directory_, shards, stem_);
  return shards.digests;
}

}  // namespace deeptitan

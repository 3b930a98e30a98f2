#include "checkpoint/model_directory.h"

#include <algorithm>
#include <map>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

using nlohmann::json;

/// tensor -> shard, sorted by tensor. The shard names come from a file that may be anybody's: only plain names pass.
std::map<std::string, std::string> parse_index(const std::filesystem::path& path) {
  json index;
  try {
    index = json::parse(read_file(path));
  } catch (const json::exception&) {
    fail("{} is not valid JSON; fetch it again", path.string());
  }
  DT_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
           "{} has no object \"weight_map\"; it is not the index of a safetensors checkpoint", path.string());
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    DT_CHECK(shard.is_string(), "{}: the file of tensor {} must be text, found {}", path.string(), tensor,
             shard.type_name());
    const auto& name = shard.get_ref<const std::string&>();
    DT_CHECK(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                 name.find('\0') == std::string::npos,
             "{}: the file of tensor {} must be a file beside the index, found \"{}\"", path.string(), tensor, name);
    shard_of.emplace(tensor, name);
  }
  return shard_of;
}

}  // namespace

ModelDirectory::ModelDirectory(const std::filesystem::path& directory, std::string_view stem)
    : directory_(directory),
      single_file_(fmt::format("{}.safetensors", stem)),
      index_file_(fmt::format("{}.safetensors.index.json", stem)) {
  namespace fs = std::filesystem;
  DT_CHECK(fs::exists(directory), "model directory {} does not exist", directory.string());
  DT_CHECK(fs::is_directory(directory), "{} is a file, expected a model directory with {} or {}", directory.string(),
           single_file_, index_file_);
  if (fs::exists(directory / index_file_)) {
    read_index(directory / index_file_);
    return;
  }
  if (!fs::exists(directory / single_file_)) {
    const bool pickled =
        fs::exists(directory / "pytorch_model.bin") || fs::exists(directory / "pytorch_model.bin.index.json");
    fail("{} has neither {} nor {}{}", directory.string(), single_file_, index_file_,
         pickled ? "; pytorch_model.bin cannot be read, convert it to safetensors first" : "");
  }
  auto shard = std::make_unique<Shard>();
  shard->file_name = single_file_;
  for (const TensorEntry& tensor : open_shard(*shard).tensors()) names_.push_back(tensor.name);
  std::sort(names_.begin(), names_.end());
  shard_of_name_.assign(names_.size(), 0);
  shards_.push_back(std::move(shard));
}

ModelDirectory::~ModelDirectory() = default;

void ModelDirectory::read_index(const std::filesystem::path& index_path) {
  const std::map<std::string, std::string> shard_of = parse_index(index_path);
  names_.reserve(shard_of.size());
  std::map<std::string, size_t> shard_index;
  for (const auto& [tensor, file_name] : shard_of) {
    const auto [position, added] = shard_index.emplace(file_name, shards_.size());
    if (added) {
      shards_.push_back(std::make_unique<Shard>());
      shards_.back()->file_name = file_name;
    }
    names_.push_back(tensor);
    shard_of_name_.push_back(position->second);
    shards_[position->second]->expected.push_back(names_.back());
  }
  std::vector<std::string> missing;
  for (const auto& [file_name, index] : shard_index) {
    if (!std::filesystem::exists(directory_ / file_name)) missing.push_back(file_name);
  }
  if (!missing.empty()) {
    const size_t count = missing.size();
    if (count > 5) missing.resize(5);
    fail("{} lacks {} of its {} tensor files: {}{}; fetch them again", directory_.string(), count, shards_.size(),
         fmt::join(missing, ", "), count > missing.size() ? ", ..." : "");
  }
}

const SafetensorsFile& ModelDirectory::open_shard(const Shard& shard) const {
  std::call_once(shard.opened, [&] {
    auto file = std::make_unique<SafetensorsFile>(directory_ / shard.file_name);
    for (const std::string_view name : shard.expected) {
      DT_CHECK(file->find(name) != nullptr, "{} should hold tensor {} by {}, but does not", file->path().string(), name,
               index_file_);
    }
    if (!shard.expected.empty() && file->tensors().size() != shard.expected.size()) {
      for (const TensorEntry& tensor : file->tensors()) {
        DT_CHECK(std::binary_search(shard.expected.begin(), shard.expected.end(), tensor.name),
                 "{} holds tensor {}, which {} does not list there", file->path().string(), tensor.name, index_file_);
      }
    }
    shard.file = std::move(file);
  });
  return *shard.file;
}

const ModelDirectory::Shard* ModelDirectory::shard_of(std::string_view name) const {
  const auto found = std::lower_bound(names_.begin(), names_.end(), name);
  if (found == names_.end() || *found != name) return nullptr;
  return shards_[shard_of_name_[static_cast<size_t>(found - names_.begin())]].get();
}

bool ModelDirectory::contains(std::string_view name) const {
  return shard_of(name) != nullptr;
}

const TensorEntry* ModelDirectory::find(std::string_view name) const {
  const Shard* shard = shard_of(name);
  return shard == nullptr ? nullptr : open_shard(*shard).find(name);
}

const TensorEntry& ModelDirectory::at(std::string_view name) const {
  const TensorEntry* tensor = find(name);
  DT_CHECK(tensor != nullptr, "{} has no tensor {}", directory_.string(), name);
  return *tensor;
}

void ModelDirectory::prefetch(const TensorEntry& tensor) const {
  open_shard(*shard_of(tensor.name)).prefetch(tensor);
}

void ModelDirectory::release(const TensorEntry& tensor) const {
  open_shard(*shard_of(tensor.name)).release(tensor);
}

}  // namespace deeptitan

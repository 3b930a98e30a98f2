#include "checkpoint/model_directory.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/ranges.h>

#include "checkpoint/stored_names.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

using nlohmann::json;

/// Of a model's files; training state has another, and names of its own.
constexpr std::string_view kModelStem = "model";

constexpr size_t kMaxIndexBytes = size_t{256} << 20;

/// tensor -> shard, sorted by tensor. The shard names come from a file that may be anybody's: only plain names pass.
std::map<std::string, std::string> parse_index(const std::filesystem::path& path) {
  const std::string where = path.string();
  const json index = read_json_file(path, {.where = where, .advice = "fetch it again"}, kMaxIndexBytes);
  DT_CHECK(index.is_object() && index.contains("weight_map") && index.at("weight_map").is_object(),
           "{} has no object \"weight_map\"; it is not the index of a safetensors checkpoint", where);
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : index.at("weight_map").items()) {
    DT_CHECK(shard.is_string(), "{}: the file of tensor {} must be text, found {}", where, shown(tensor),
             json_kind(shard));
    const auto& name = shard.get_ref<const std::string&>();
    DT_CHECK(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                 name.find('\0') == std::string::npos,
             "{}: the file of tensor {} must be a file beside the index, found \"{}\"", where, shown(tensor),
             shown(name));
    shard_of.emplace(tensor, name);
  }
  return shard_of;
}

}  // namespace

ModelDirectory::ModelDirectory(const std::filesystem::path& directory, std::string_view stem)
    : directory_(directory),
      names_of_(stem == kModelStem ? Names::kModel : Names::kStored),
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
  std::map<std::string, size_t> shard_index;
  std::vector<std::pair<std::string, size_t>> fused;  // tensors that hold the matrices of all experts
  std::vector<std::pair<std::string, size_t>> places;
  for (const auto& [tensor, file_name] : shard_of) {
    const auto [position, added] = shard_index.emplace(file_name, shards_.size());
    if (added) {
      shards_.push_back(std::make_unique<Shard>());
      shards_.back()->file_name = file_name;
    }
    std::string name = names_of_ == Names::kModel ? plain_tensor_name(tensor) : tensor;
    const bool is_fused = names_of_ == Names::kModel && is_fused_experts(name);
    (is_fused ? fused : places).emplace_back(std::move(name), position->second);
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
  // How many matrices such a tensor holds, its file alone says.
  for (const auto& [name, shard] : fused) {
    std::vector<std::string> parts = open_shard(*shards_[shard]).parts_of(name);
    DT_CHECK(!parts.empty(), "{} should hold tensor {} by {}, but does not; fetch both again",
             (directory_ / shards_[shard]->file_name).string(), shown(name), index_file_);
    for (std::string& part : parts) places.emplace_back(std::move(part), shard);
  }
  std::sort(places.begin(), places.end());
  names_.reserve(places.size());
  for (auto& [name, shard] : places) {
    DT_CHECK(names_.empty() || names_.back() != name, "{}: two tensors are tensor {} of the model", index_path.string(),
             shown(name));
    names_.push_back(std::move(name));
    shard_of_name_.push_back(shard);
  }
}

const SafetensorsFile& ModelDirectory::open_shard(const Shard& shard) const {
  std::call_once(shard.opened,
                 [&] { shard.file = std::make_unique<SafetensorsFile>(directory_ / shard.file_name, names_of_); });
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
  // What a shard holds beside the index's tensors is nobody's: the index counts, as in transformers.
  const Shard* shard = shard_of(name);
  if (shard == nullptr) return nullptr;
  const TensorEntry* tensor = open_shard(*shard).find(name);
  DT_CHECK(tensor != nullptr, "{} should hold tensor {} by {}, but does not; fetch both again",
           (directory_ / shard->file_name).string(), shown(name), index_file_);
  return tensor;
}

uint64_t ModelDirectory::file_bytes() const {
  uint64_t bytes = 0;
  for (const auto& shard : shards_) {
    std::error_code ignored;
    const uint64_t size = std::filesystem::file_size(directory_ / shard->file_name, ignored);
    if (!ignored) bytes += size;
  }
  return bytes;
}

const TensorEntry& ModelDirectory::at(std::string_view name) const {
  const TensorEntry* tensor = find(name);
  DT_CHECK(tensor != nullptr, "{} has no tensor {}", directory_.string(), shown(name));
  return *tensor;
}

void ModelDirectory::read(const TensorEntry& tensor, size_t first, size_t bytes, void* destination) const {
  open_shard(*shard_of(tensor.name)).read(tensor, first, bytes, destination);
}

void ModelDirectory::prefetch(const TensorEntry& tensor) const {
  open_shard(*shard_of(tensor.name)).prefetch(tensor);
}

void ModelDirectory::release(const TensorEntry& tensor) const {
  open_shard(*shard_of(tensor.name)).release(tensor);
}

}  // namespace deeptitan

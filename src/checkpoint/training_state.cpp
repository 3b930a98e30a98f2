#include "checkpoint/training_state.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "checkpoint/atomic_directory.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kMetadataFile = "state.json";
constexpr const char* kTensorStem = "state";
constexpr std::string_view kStepPrefix = "step-";

const fs::path& created(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail_file("create", directory, error.value());
  return directory;
}

TrainingStateMetadata read_metadata(const fs::path& directory) {
  const fs::path path = directory / kMetadataFile;
  DT_CHECK(fs::exists(path), "{} holds no training state: {} is missing", directory.string(), kMetadataFile);
  return TrainingStateMetadata::parse(read_file(path), path.string());
}

}  // namespace

TrainingStateMetadata TrainingStateMetadata::parse(std::string_view text, std::string_view file) {
  TrainingStateMetadata metadata;
  metadata.file_ = file;
  const json root = read_json(text, {.where = file, .advice = "the checkpoint is damaged, resume from another"});
  DT_CHECK(root.is_object(), "{} must hold a JSON object, found {}", file, json_kind(root));
  for (const auto& [key, value] : root.items()) {
    if (value.is_number_float()) {
      metadata.values_[key] = value.get<double>();
    } else if (value.is_number_integer() &&
               !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))) {
      metadata.values_[key] = value.get<int64_t>();
    } else if (value.is_string()) {
      metadata.values_[key] = value.get<std::string>();
    } else {
      fail("{}: {} must be a number of at most 63 bits or text, found {}", file, shown(key), json_kind(value));
    }
  }
  return metadata;
}

std::string TrainingStateMetadata::dump() const {
  json root = json::object();
  for (const auto& [key, value] : values_) {
    std::visit([&, name = key](const auto& held) { root[name] = held; }, value);
  }
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void TrainingStateMetadata::set_real(const std::string& key, double value) {
  DT_CHECK(std::isfinite(value), "{}: {} must be finite, found {}", file_, key, value);
  values_[key] = value;
}

const TrainingStateMetadata::Value& TrainingStateMetadata::at(std::string_view key) const {
  const auto found = values_.find(key);
  DT_CHECK(found != values_.end(), "{} has no value \"{}\"; it was written by another version or is damaged", file_,
           key);
  return found->second;
}

int64_t TrainingStateMetadata::integer(std::string_view key) const {
  const auto* value = std::get_if<int64_t>(&at(key));
  DT_CHECK(value != nullptr, "{}: \"{}\" must be a whole number", file_, key);
  return *value;
}

double TrainingStateMetadata::real(std::string_view key) const {
  const auto* value = std::get_if<double>(&at(key));
  DT_CHECK(value != nullptr, "{}: \"{}\" must be a real number", file_, key);
  return *value;
}

const std::string& TrainingStateMetadata::text(std::string_view key) const {
  const auto* value = std::get_if<std::string>(&at(key));
  DT_CHECK(value != nullptr, "{}: \"{}\" must be text", file_, key);
  return *value;
}

TrainingStateWriter::TrainingStateWriter(const fs::path& directory, std::vector<TensorDeclaration> tensors,
                                         uint64_t max_shard_bytes)
    : directory_(directory), tensors_(created(directory), std::move(tensors), max_shard_bytes, kTensorStem) {}

void TrainingStateWriter::finish(const TrainingStateMetadata& metadata) {
  tensors_.finish();
  write_file(directory_ / kMetadataFile, metadata.dump());
}

TrainingStateReader::TrainingStateReader(const fs::path& directory)
    : metadata_(read_metadata(directory)), tensors_(directory, kTensorStem) {}

void TrainingStateReader::check(const std::vector<TensorDeclaration>& expected) const {
  const std::string path = tensors_.path().string();
  std::vector<std::string> missing, names;
  for (const TensorDeclaration& tensor : expected) {
    names.push_back(tensor.name);
    if (!tensors_.contains(tensor.name)) missing.push_back(tensor.name);
  }
  DT_CHECK(missing.empty(),
           "{} lacks {} of the {} tensors that this run needs, the first is {}; was it written by "
           "another configuration?",
           path, missing.size(), expected.size(), missing.front());
  std::sort(names.begin(), names.end());
  std::vector<std::string> extra;
  std::set_difference(tensors_.names().begin(), tensors_.names().end(), names.begin(), names.end(),
                      std::back_inserter(extra));
  DT_CHECK(extra.empty(),
           "{} has {} tensors that this run does not know, the first is {}; was it written by another "
           "configuration?",
           path, extra.size(), extra.front());
  for (const TensorDeclaration& tensor : expected) {
    const TensorEntry& found = tensors_.at(tensor.name);
    DT_CHECK(found.shape == tensor.shape && found.dtype == tensor.dtype, "{}: tensor {} is {} {}, this run needs {} {}",
             path, tensor.name, dtype_name(found.dtype), shape_text(found.shape), dtype_name(tensor.dtype),
             shape_text(tensor.shape));
  }
}

void TrainingStateReader::read(std::string_view name, void* destination, size_t bytes) const {
  const TensorEntry& tensor = tensors_.at(name);
  DT_CHECK(tensor.bytes == bytes, "{}: tensor {} has {} bytes, this run needs {}", tensors_.path().string(), name,
           tensor.bytes, bytes);
  if (bytes > 0) std::memcpy(destination, tensor.data, bytes);
  tensors_.release(tensor);
}

std::string checkpoint_name(int64_t step) {
  return fmt::format("{}{:08}", kStepPrefix, step);
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& folder) {
  recover_directories(folder);
  std::vector<CheckpointEntry> checkpoints;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kStepPrefix)) continue;
    const char* begin = name.data() + kStepPrefix.size();
    const char* end = name.data() + name.size();
    int64_t step = 0;
    const auto [stop, problem] = std::from_chars(begin, end, step);
    if (problem != std::errc() || stop != end || step < 0 || checkpoint_name(step) != name) continue;
    if (fs::exists(entry.path() / kTrainingStateDirectory / kMetadataFile)) checkpoints.push_back({step, entry.path()});
  }
  std::sort(checkpoints.begin(), checkpoints.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return checkpoints;
}

std::optional<CheckpointEntry> latest_checkpoint(const fs::path& folder) {
  std::vector<CheckpointEntry> checkpoints = list_checkpoints(folder);
  if (checkpoints.empty()) return std::nullopt;
  return std::move(checkpoints.back());
}

void remove_old_checkpoints(const fs::path& folder, int64_t keep) {
  DT_CHECK(keep >= 1, "at least 1 checkpoint must be kept, found {}", keep);
  const std::vector<CheckpointEntry> checkpoints = list_checkpoints(folder);
  const auto count = static_cast<int64_t>(checkpoints.size());
  for (int64_t i = 0; i + keep < count; ++i) {
    const fs::path& path = checkpoints[static_cast<size_t>(i)].path;
    try {
      remove_directory(path);
    } catch (const Error& error) {
      log_warning(fmt::format("{}; the checkpoint is kept as {}", error.what(), set_aside(path).string()));
    }
  }
}

}  // namespace deeptitan

#include "checkpoint/training_state.h"

#include <cmath>

#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kMetadataFile = "state.json";

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

void write_training_state(const fs::path& directory, const TrainingStateMetadata& metadata) {
  write_file(directory / kMetadataFile, metadata.dump());
}

TrainingStateMetadata read_training_state(const fs::path& directory) {
  const fs::path path = directory / kMetadataFile;
  DT_CHECK(fs::exists(path), "{} holds no training state: {} is missing", directory.string(), kMetadataFile);
  return TrainingStateMetadata::parse(read_file(path), path.string());
}

}  // namespace deeptitan

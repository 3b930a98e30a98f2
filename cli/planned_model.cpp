#include "planned_model.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "checkpoint/model_directory.h"
#include "config/model_config_json.h"
#include "core/error.h"
#include "core/file.h"
#include "hub/cached_model.h"
#include "hub/hub_settings.h"
#include "train/model_to_train.h"

namespace deeptitan {
namespace {

// What download fetches and what shape it has; nullptr for a directory of another name.
const KnownModel* known_model_of(const std::string& directory) {
  const std::string short_name = short_name_of_directory(directory);
  for (const KnownModel& known : known_models()) {
    if (short_name == known.short_name || directory == known.short_name) return &known;
  }
  return nullptr;
}

std::string widened_note(const std::string& directory, const char* to) {
  const uint64_t bytes = ModelDirectory(directory).file_bytes();
  return fmt::format("the fp8 weights of {} ({}) are widened to {}", directory, format_bytes(bytes), to);
}

}  // namespace

std::string weights_note(const std::string& shape) {
  const std::string downloads = downloads_of_shape(shape);
  return downloads.empty() ? "" : "weights of this shape: " + downloads;
}

bool is_shape_word(const std::string& target) {
  std::error_code error;
  if (std::filesystem::exists(target, error) || target.find('/') != target.npos) return false;
  const std::vector<std::string> shapes = model_config_names();
  if (std::find(shapes.begin(), shapes.end(), target) != shapes.end()) return true;
  return std::none_of(known_models().begin(), known_models().end(),
                      [&](const KnownModel& known) { return target == known.short_name; });
}

PlannedModel planned_model(RunConfig config) {
  auto& m = config.model;
  std::error_code error;
  if (m.initial_checkpoint.empty()) return {resolve_model_config(config), weights_note(m.name)};
  if (std::filesystem::exists(m.initial_checkpoint, error)) {
    PlannedModel planned{model_to_train(config), ""};
    if (load_model_config(m.initial_checkpoint).fp8_weight_block_rows > 0) {
      planned.note = widened_note(m.initial_checkpoint, "fp32, as all weights in training are");
    }
    return planned;
  }
  const KnownModel* known = known_model_of(m.initial_checkpoint);
  const bool shaped = !m.name.empty() || !m.config.empty();
  DT_CHECK_USAGE(shaped || known != nullptr,
                 "model.initial_checkpoint = {} is not there; fetch it with deeptitan download, or name its shape with "
                 "--model.name (one of {})",
                 m.initial_checkpoint, fmt::join(model_config_names(), ", "));
  if (!shaped) m.name = known->shape;
  std::string note = fmt::format("{} is not there", m.initial_checkpoint);
  if (!m.name.empty()) note += fmt::format(": this is for the shape of {}", m.name);
  if (known != nullptr) {
    const bool by_name = m.initial_checkpoint == known->short_name || m.initial_checkpoint == known->repository;
    note += fmt::format("; fetch the weights with: deeptitan download {}{}", known->short_name,
                        by_name ? "" : " --dir " + m.initial_checkpoint);
  }
  return {resolve_model_config(config), note};
}

}  // namespace deeptitan

#include "hub/cached_model.h"

#include <algorithm>
#include <vector>

#include <fmt/ranges.h>

#include "config/model_config.h"
#include "config/nearest_name.h"
#include "core/error.h"
#include "core/file.h"
#include "core/shown_text.h"
#include "hub/cache_layout.h"
#include "hub/hub_settings.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRefBytes = 4096;

/// OWNER/NAME that `model` may mean, empty if it can mean none.
std::string repository_or_nothing(const std::string& model) {
  try {
    return repository_of(model);
  } catch (const Error&) {
    return "";
  }
}

/// "; did you mean 'v2-lite'?": a known model, or a directory beside a path that is none; empty where none is near.
std::string did_you_mean_model(const std::string& model) {
  std::vector<std::string> names;
  for (const KnownModel& known : known_models()) {
    if (model == known.repository) return "";
    names.emplace_back(known.short_name);
    names.emplace_back(known.repository);
  }
  if (std::string meant = did_you_mean(model, names); !meant.empty()) return meant;
  const fs::path path = (fs::path(model) / "").parent_path();
  const fs::path folder = path.parent_path();
  names.clear();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, error)) {
    if (entry.is_directory(error)) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());  // a folder has no order of its own
  const std::string sibling = nearest_name(path.filename().string(), names);
  return sibling.empty() ? "" : fmt::format("; did you mean '{}'?", shown((folder / sibling).string()));
}

[[noreturn]] void fail_without_model(const std::string& model) {
  const std::vector<std::string> shapes = model_config_names();
  DT_CHECK_USAGE(std::find(shapes.begin(), shapes.end(), model) == shapes.end(),
                 "{} is a shape without weights; train it (model.name in a run file), and give the directory of the "
                 "run's model",
                 model);
  std::vector<std::string> names;
  for (const KnownModel& known : known_models()) names.emplace_back(known.short_name);
  fail_usage("there is no directory {}{} (expected a model's directory, OWNER/NAME on the hub, or one of: {})",
             model.empty() ? "of an empty name" : shown(model), did_you_mean_model(model), fmt::join(names, ", "));
}

}  // namespace

std::optional<fs::path> cached_snapshot(const fs::path& cache_directory, const std::string& repository) {
  const CacheLayout layout(cache_directory, repository);
  std::error_code error;
  const auto whole = [&](const fs::path& snapshot) { return fs::is_regular_file(snapshot / "config.json", error); };
  if (const fs::path ref = layout.ref("main"); fs::is_regular_file(ref, error)) {
    std::string commit = read_file(ref, kMaxRefBytes);
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
    if (is_safe_path(commit) && whole(layout.snapshot(commit))) return layout.snapshot(commit);
  }
  std::vector<fs::path> snapshots;
  for (const auto& entry : fs::directory_iterator(layout.snapshot("x").parent_path(), error)) {
    if (whole(entry.path())) snapshots.push_back(entry.path());
  }
  return snapshots.size() == 1 ? std::optional(snapshots.front()) : std::nullopt;
}

fs::path model_directory_of(const std::string& model) {
  std::error_code error;
  if (fs::exists(model, error) || fs::is_symlink(model, error)) return model;
  if (const std::string short_name = short_name_of_directory(model); !short_name.empty()) {
    const std::string repository = repository_of(short_name);
    const bool is_repository = repository == model;
    DT_CHECK_USAGE(is_repository, "there is no directory {}; fetch {} with: deeptitan download {} --dir {}",
                   shown(model), repository, short_name, shown(model));
  }
  const std::string repository = repository_or_nothing(model);
  if (repository.empty()) fail_without_model(model);
  const fs::path cache = HubSettings::from_environment().cache_directory;
  if (const std::optional<fs::path> snapshot = cached_snapshot(cache, repository)) return *snapshot;
  const bool maybe_path = repository == model;
  fail_usage("{}{} is not in the cache {}; fetch it with: deeptitan download {}{}",
             maybe_path ? fmt::format("there is no directory {}, and the model ", shown(model)) : "the model ",
             shown(repository), cache.string(), shown(model), maybe_path ? did_you_mean_model(model) : "");
}

std::string short_name_of_directory(const fs::path& directory) {
  const fs::path whole = (directory / "").parent_path();
  const std::string name = whole.filename().string();
  for (const KnownModel& known : known_models()) {
    const std::string repository = known.repository;
    if (name == repository.substr(repository.find('/') + 1)) return known.short_name;
  }
  return "";
}

}  // namespace deeptitan

#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace deeptitan {

/// The directory of a model that `model` names: a path as it is; else, for OWNER/NAME or a short name (known_models),
/// the snapshot of it in the hub's cache that `download` left, of the branch main or the only one. Throws a usage error
/// that says how to fetch a model that is not there, and for what names none the names that are near.
std::filesystem::path model_directory_of(const std::string& model);

/// The snapshot of `repository` (OWNER/NAME) in the cache, if it is there with its config.json.
std::optional<std::filesystem::path> cached_snapshot(const std::filesystem::path& cache_directory,
                                                     const std::string& repository);

/// The short name of the model that a directory named as its repository would hold ("models/DeepSeek-V2-Lite"), empty
/// for another.
std::string short_name_of_directory(const std::filesystem::path& directory);

}  // namespace deeptitan

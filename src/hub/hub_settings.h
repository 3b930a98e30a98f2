#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace deeptitan {

/// Where the hub is, who asks, and where its cache lies, as Hugging Face's Python tools decide it.
struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // no slash at the end
  std::string token;                                // empty: ask as nobody
  std::filesystem::path cache_directory;            // holds models--OWNER--NAME

  /// endpoint: HF_ENDPOINT. Token: HF_TOKEN, else the file HF_HOME/token. Cache: HF_HUB_CACHE, else HF_HOME/hub;
  /// HF_HOME is XDG_CACHE_HOME/huggingface or ~/.cache/huggingface where it is not set. Throws Error if none of them
  /// is.
  static HubSettings from_environment();
};

/// A model that has a short name.
struct KnownModel {
  const char* short_name;
  const char* repository;
  const char* shape;  // its name in config/model_shapes
};
std::span<const KnownModel> known_models();

/// "deepseek-ai/DeepSeek-V2-Lite: deeptitan download v2-lite; ...": where models of a shape come from; empty for a
/// shape that no known model has.
std::string downloads_of_shape(std::string_view shape);

/// OWNER/NAME for a short name or for OWNER/NAME itself. Anything else is an Error (kUsage) that lists the short names.
std::string repository_of(std::string_view model);

}  // namespace deeptitan

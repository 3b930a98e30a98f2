#include "hub/hub_settings.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include <fmt/ranges.h>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

constexpr std::array<KnownModel, 9> kKnownModels = {
    {{"v2-lite-chat", "deepseek-ai/DeepSeek-V2-Lite-Chat", "v2-lite"},
     {"v2-lite", "deepseek-ai/DeepSeek-V2-Lite", "v2-lite"},
     {"v2", "deepseek-ai/DeepSeek-V2", "v2"},
     {"v3", "deepseek-ai/DeepSeek-V3", "v3"},
     {"v3-0324", "deepseek-ai/DeepSeek-V3-0324", "v3"},
     {"moonlight", "moonshotai/Moonlight-16B-A3B", "moonlight"},
     {"moonlight-chat", "moonshotai/Moonlight-16B-A3B-Instruct", "moonlight"},
     {"kimi-k2", "moonshotai/Kimi-K2-Instruct", "kimi-k2"},
     {"gigachat3-10b", "ai-sage/GigaChat3-10B-A1.8B", "gigachat3-10b"}}};

/// The variable's value, empty if it is not set.
std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::filesystem::path hub_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
    return std::filesystem::path(cache) / "huggingface";
  }
  const std::string home = environment("HOME");
  DT_CHECK(!home.empty(), "neither HF_HUB_CACHE, HF_HOME nor HOME is set; set one to say where downloads go");
  return std::filesystem::path(home) / ".cache" / "huggingface";
}

std::string trimmed(std::string text) {
  const char* blanks = " \t\r\n";
  text.erase(0, std::min(text.find_first_not_of(blanks), text.size()));
  text.erase(text.find_last_not_of(blanks) + 1);
  return text;
}

/// A part of OWNER/NAME as the hub allows it; it becomes part of a path, so nothing else may pass.
bool is_repository_part(std::string_view part) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return !part.empty() && part.size() <= 96 && part.front() != '.' && part.front() != '-' && part.back() != '.' &&
         part.back() != '-' && std::all_of(part.begin(), part.end(), allowed) && part.find("..") == part.npos &&
         part.find("--") == part.npos;
}

}  // namespace

HubSettings HubSettings::from_environment() {
  HubSettings settings;
  if (const std::string endpoint = environment("HF_ENDPOINT"); !endpoint.empty()) {
    DT_CHECK_USAGE(endpoint.starts_with("https://") || endpoint.starts_with("http://"),
                   "HF_ENDPOINT must begin with https:// or http://, found {}", endpoint);
    settings.endpoint = endpoint.substr(0, endpoint.find_last_not_of('/') + 1);
  }
  const std::string cache = environment("HF_HUB_CACHE");
  settings.cache_directory = cache.empty() ? hub_home() / "hub" : std::filesystem::path(cache);
  settings.token = trimmed(environment("HF_TOKEN"));
  if (settings.token.empty() && (!environment("HF_HOME").empty() || !environment("HOME").empty())) {
    const std::filesystem::path file = hub_home() / "token";
    std::error_code ignored;
    if (std::filesystem::is_regular_file(file, ignored)) settings.token = trimmed(read_file(file));
  }
  return settings;
}

std::span<const KnownModel> known_models() {
  return kKnownModels;
}

std::string downloads_of_shape(std::string_view shape) {
  std::string text;
  for (const KnownModel& known : kKnownModels) {
    if (shape != known.shape) continue;
    text += fmt::format("{}{}: deeptitan download {}", text.empty() ? "" : "; ", known.repository, known.short_name);
  }
  return text;
}

std::string repository_of(std::string_view model) {
  for (const KnownModel& known : kKnownModels) {
    if (model == known.short_name) return known.repository;
  }
  // As a browser shows it.
  for (const std::string_view site : {"https://huggingface.co/", "https://hf.co/", "huggingface.co/"}) {
    if (!model.starts_with(site)) continue;
    const std::string_view path = model.substr(site.size());
    const size_t owner = std::min(path.find('/'), path.size());
    return repository_of(path.substr(0, path.find('/', std::min(owner + 1, path.size()))));
  }
  const size_t slash = model.find('/');
  if (slash != model.npos && is_repository_part(model.substr(0, slash)) &&
      is_repository_part(model.substr(slash + 1))) {
    return std::string(model);
  }
  std::vector<std::string> names;
  names.reserve(std::size(kKnownModels));
  for (const KnownModel& known : kKnownModels) names.emplace_back(known.short_name);
  fail_usage("unknown model '{}'{} (models: {}; or OWNER/NAME on the hub)", model, did_you_mean(model, names),
             fmt::join(names, ", "));
}

}  // namespace deeptitan

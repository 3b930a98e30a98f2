#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/run_config.h"

namespace deeptitan {

/// A key set on the command line: --training.steps 100.
struct ConfigOverride {
  std::string key;
  std::string value;
};

/// "--section.key value" and "--section.key=value" pairs, as they follow the file's name on the command line. Throws a
/// usage error for anything else.
std::vector<ConfigOverride> parse_overrides(std::span<const std::string> arguments);

/// A run's configuration from the text of a TOML file, with overrides applied and checked. Every error is a usage error
/// that begins with `where` and the line (or "command line"), names the key, and says what it may be.
RunConfig parse_run_config(std::string_view toml_text, std::string_view where,
                           std::span<const ConfigOverride> overrides = {});

/// parse_run_config of a file. Paths in it are relative to the working directory, not to the file.
RunConfig load_run_config(const std::filesystem::path& path, std::span<const ConfigOverride> overrides = {});

/// The effective configuration, every key with its value: parse_run_config of it gives the same configuration.
std::string to_toml(const RunConfig& config);

/// docs/config.md: every key with its type, range, unit, default and meaning.
std::string config_reference_markdown();

}  // namespace deeptitan

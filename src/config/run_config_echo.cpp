#include <algorithm>
#include <cctype>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "config/config_keys.h"
#include "config/run_config_toml.h"

namespace deeptitan {

namespace {

using Json = nlohmann::ordered_json;

std::string quoted_text(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        result += "\\\"";
        break;
      case '\\':
        result += "\\\\";
        break;
      case '\n':
        result += "\\n";
        break;
      case '\r':
        result += "\\r";
        break;
      case '\t':
        result += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          result += c;
        }
    }
  }
  return result + "\"";
}

/// The shortest decimal that reads back as `value`, and as a number with a fraction.
std::string real(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string key_text(std::string_view name) {
  const auto is_bare = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-'; };
  const bool bare = !name.empty() && std::all_of(name.begin(), name.end(), is_bare);
  return bare ? std::string(name) : quoted_text(name);
}

std::string json_as_toml(const Json& value) {
  if (value.is_string()) return quoted_text(value.get<std::string>());
  if (value.is_number_float()) return real(value.get<double>());
  if (!value.is_structured()) return value.dump();
  std::vector<std::string> parts;
  for (const auto& [name, part] : value.items()) {
    parts.push_back(value.is_array() ? json_as_toml(part) : fmt::format("{} = {}", key_text(name), json_as_toml(part)));
  }
  return fmt::format(fmt::runtime(value.is_array() ? "[{}]" : "{{{}}}"), fmt::join(parts, ", "));
}

/// The keys of `source` that are not as they are by default.
std::vector<std::string> source_lines(const TextSource& source) {
  TextSource value = source, defaults;
  std::vector<std::string> lines;
  for (const ConfigKey<TextSource>& key : text_source_keys()) {
    const std::string text = value_as_toml(key.member(value));
    if (key.name == "path" || text != value_as_toml(key.member(defaults))) {
      lines.push_back(fmt::format("{} = {}", key.name, text));
    }
  }
  return lines;
}

}  // namespace

std::string value_as_toml(const ConfigMember& member) {
  if (const auto* value = std::get_if<bool*>(&member)) return **value ? "true" : "false";
  if (const auto* value = std::get_if<int64_t*>(&member)) return fmt::format("{}", **value);
  if (const auto* value = std::get_if<double*>(&member)) return real(**value);
  if (const auto* value = std::get_if<std::string*>(&member)) return quoted_text(**value);
  if (const auto* value = std::get_if<std::vector<std::string>*>(&member)) {
    std::vector<std::string> texts;
    for (const std::string& text : **value) texts.push_back(quoted_text(text));
    return fmt::format("[{}]", fmt::join(texts, ", "));
  }
  if (const auto* value = std::get_if<ChoiceMember>(&member)) return quoted_text(value->names[value->get()]);
  if (const auto* value = std::get_if<TableMember>(&member)) return json_as_toml(Json::parse(*value->json));
  std::vector<std::string> sources;
  for (const TextSource& source : *std::get<std::vector<TextSource>*>(member)) {
    sources.push_back(fmt::format("{{{}}}", fmt::join(source_lines(source), ", ")));
  }
  return fmt::format("[{}]", fmt::join(sources, ", "));
}

std::string to_toml(const RunConfig& config) {
  RunConfig copy = config;
  std::string text;
  std::string_view section;
  std::string tables;  // what opens a table of its own comes after the section's plain keys
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    if (key.section() != section) {
      text += tables;
      tables.clear();
      section = key.section();
      text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", section);
    }
    const ConfigMember member = key.member(copy);
    if (const auto* table = std::get_if<TableMember>(&member)) {
      const Json fields = Json::parse(*table->json);
      if (fields.empty()) continue;
      tables += fmt::format("\n[{}]\n", key.name);
      for (const auto& [name, value] : fields.items())
        tables += fmt::format("{} = {}\n", key_text(name), json_as_toml(value));
    } else if (const auto* sources = std::get_if<std::vector<TextSource>*>(&member)) {
      for (const TextSource& source : **sources) {
        tables += fmt::format("\n[[{}]]\n{}\n", key.name, fmt::join(source_lines(source), "\n"));
      }
    } else {
      text += fmt::format("{} = {}\n", key.short_name(), value_as_toml(member));
    }
  }
  return text + tables;
}

}  // namespace deeptitan

#include "config/run_config_toml.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <sstream>
#include <system_error>

#include <toml++/toml.h>

#include "config/config_keys.h"
#include "config/dtype_words.h"
#include "config/nearest_name.h"
#include "config/other_words.h"
#include "config/toml_text.h"
#include "core/error.h"
#include "core/file.h"
#include "core/shown_text.h"
#include "core/utf8.h"

namespace deeptitan {

namespace {

constexpr size_t kMaxRunFileBytes = size_t{16} << 20;

/// Where a node stands: "run.toml:12", or "command line" for one that an override put there.
class Places {
 public:
  explicit Places(std::string_view file) : file_(file) {}

  std::string of(const toml::source_region& region) const {
    return region.begin.line == 0 ? "command line" : fmt::format("{}:{}", file_, region.begin.line);
  }

 private:
  std::string_view file_;
};

/// A node as the user wrote it, near enough to be recognised in a message.
std::string node_text(const toml::node& node) {
  if (node.is_floating_point()) return fmt::format("{}", node.as_floating_point()->get());
  std::ostringstream stream;
  node.visit([&](const auto& value) { stream << value; });
  std::string text = stream.str();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return shown(text);
}

std::vector<std::string> section_names() {
  std::vector<std::string> names;
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    if (names.empty() || names.back() != key.section()) names.emplace_back(key.section());
  }
  return names;
}

const ConfigKey<RunConfig>* find_key(std::string_view name) {
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

/// The key that was probably meant: the same word in another section ("training.lr"), else what the program has in its
/// place or has not, else the nearest spelling in the same section, else the nearest anywhere.
[[noreturn]] void unknown_key(std::string_view where, std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  std::vector<std::string> all, same_section;
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    if (key.short_name() == last) {
      fail_usage("{}: unknown key '{}'; did you mean '{}'? (docs/config.md lists all keys)", where, name, key.name);
    }
    all.emplace_back(key.short_name());
    if (name.starts_with(fmt::format("{}.", key.section()))) same_section.push_back(all.back());
  }
  std::string near = nearest_name(last, same_section);
  if (near.empty()) near = nearest_name(last, all);
  std::string hint = other_words_for(name);
  if (!hint.empty()) near.clear();
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    if (key.short_name() == near) hint = fmt::format("; did you mean '{}'?", key.name);
  }
  fail_usage("{}: unknown key '{}'{} (docs/config.md lists all keys)", where, name, hint);
}

template <typename Owner>
void read_table(const toml::table& table, std::span<const ConfigKey<Owner>> keys, std::string_view prefix, Owner& owner,
                const Places& places);

std::string table_as_json(const toml::table& table) {
  std::ostringstream stream;
  stream << toml::json_formatter{table, toml::format_flags::none};
  std::string text = stream.str();
  text.erase(std::remove(text.begin(), text.end(), '\n'), text.end());
  return text;
}

std::vector<TextSource> read_sources(const toml::array& array, const Places& places) {
  std::vector<TextSource> sources;
  for (const toml::node& element : array) {
    const toml::table* table = element.as_table();
    DT_CHECK_USAGE(table != nullptr, "{}: data.sources holds {}; expected tables, each with a path",
                   places.of(element.source()), node_text(element));
    read_table<TextSource>(*table, text_source_keys(), "data.sources: ", sources.emplace_back(), places);
  }
  return sources;
}

/// Puts a node's value into a member; false where it is of the wrong type or out of range.
struct Assignment {
  const toml::node& node;
  const NumberRange& range;
  const Places& places;

  bool operator()(bool* target) const {
    if (!node.is_boolean()) return false;
    *target = node.as_boolean()->get();
    return true;
  }
  bool operator()(int64_t* target) const {
    // 1e9 is a whole number too, though not to TOML; one beyond int64_t must not come to value().
    const bool fits =
        node.is_integer() || (node.is_floating_point() && std::abs(node.as_floating_point()->get()) < 0x1p63);
    const std::optional<int64_t> value = fits ? node.value<int64_t>() : std::nullopt;
    if (!value || !range.contains(static_cast<double>(*value))) return false;
    *target = *value;
    return true;
  }
  bool operator()(double* target) const {
    // Not node.value<double>() for a whole number: it has none beyond 2^53.
    const std::optional<double> value = node.is_integer()          ? static_cast<double>(node.as_integer()->get())
                                        : node.is_floating_point() ? node.value<double>()
                                                                   : std::nullopt;
    if (!value || !std::isfinite(*value) || !range.contains(*value)) return false;
    *target = *value;
    return true;
  }
  bool operator()(std::string* target) const {
    if (!node.is_string()) return false;
    *target = node.as_string()->get();
    return true;
  }
  bool operator()(std::vector<std::string>* target) const {
    if (!node.is_array()) return false;
    std::vector<std::string> texts;
    for (const toml::node& element : *node.as_array()) {
      if (!element.is_string()) return false;
      texts.push_back(element.as_string()->get());
    }
    *target = std::move(texts);
    return true;
  }
  bool operator()(const ChoiceMember& target) const {
    if (!node.is_string()) return false;
    const std::string_view word = usual_dtype_word(node.as_string()->get());
    const auto at = std::find(target.names.begin(), target.names.end(), word);
    if (at == target.names.end()) return false;
    target.set(static_cast<size_t>(at - target.names.begin()));
    return true;
  }
  bool operator()(const TableMember& target) const {
    if (!node.is_table()) return false;
    *target.json = table_as_json(*node.as_table());
    return true;
  }
  bool operator()(std::vector<TextSource>* target) const {
    if (!node.is_array()) return false;
    *target = read_sources(*node.as_array(), places);
    return true;
  }
};

/// The nearest word where a word was expected and another was given.
std::string choice_hint(const toml::node& node, const ConfigMember& member) {
  const auto* choice = std::get_if<ChoiceMember>(&member);
  if (choice == nullptr || !node.is_string()) return "";
  return did_you_mean(node.as_string()->get(), std::vector<std::string>(choice->names.begin(), choice->names.end()));
}

template <typename Owner>
void read_value(const toml::node& node, const ConfigKey<Owner>& key, std::string_view prefix, Owner& owner,
                const Places& places) {
  const ConfigMember member = key.member(owner);
  DT_CHECK_USAGE(std::visit(Assignment{node, key.range, places}, member), "{}: {}{} = {}; expected {}{}",
                 places.of(node.source()), prefix, key.name, node_text(node), expected_values(member, key.range),
                 choice_hint(node, member));
}

template <typename Owner>
void read_table(const toml::table& table, std::span<const ConfigKey<Owner>> keys, std::string_view prefix, Owner& owner,
                const Places& places) {
  std::vector<std::string> names;
  for (const ConfigKey<Owner>& key : keys) names.emplace_back(key.name);
  for (const auto& [name, node] : table) {
    const std::string_view wanted = name.str();
    const auto at = std::find_if(keys.begin(), keys.end(), [&](const auto& key) { return key.name == wanted; });
    DT_CHECK_USAGE(at != keys.end(), "{}: {}unknown key '{}'{} (docs/config.md lists all keys)",
                   places.of(name.source()), prefix, name.str(), did_you_mean(name.str(), names));
    read_value(node, *at, prefix, owner, places);
  }
}

void read_section(std::string_view section, const toml::table& table, RunConfig& config, const Places& places) {
  for (const auto& [name, node] : table) {
    const std::string full_name = fmt::format("{}.{}", section, name.str());
    const ConfigKey<RunConfig>* key = find_key(full_name);
    if (key == nullptr) unknown_key(places.of(name.source()), full_name);
    read_value<RunConfig>(node, *key, "", config, places);
  }
}

// toml++ 3.3 relies on some of what find_toml_fault refuses: it runs into undefined behaviour without it.
toml::table parse_toml(std::string_view text, std::string_view where) {
  if (const std::optional<TomlFault> fault = find_toml_fault(text)) {
    fail_usage("{}:{}: not valid TOML: {}", where, fault->line, fault->reason);
  }
  try {
    return toml::parse(text, where);
  } catch (const toml::parse_error& error) {
    fail_usage("{}:{}: not valid TOML: {}", where, error.source().begin.line, error.description());
  }
}

/// Inserts what stands after "value = " in `toml_text` into `table`; false where that is not TOML.
bool insert_parsed(toml::table& table, std::string_view name, std::string_view value) {
  const std::string line = fmt::format("value = {}", value);
  if (value.find('\n') != std::string_view::npos || find_toml_fault(line)) return false;
  try {
    // Inserting a copy through a visitor drops the source region, which marks the value as the command line's.
    const toml::table parsed = toml::parse(line);
    parsed.get("value")->visit([&](const auto& node) { table.insert_or_assign(name, node); });
    return true;
  } catch (const toml::parse_error&) {
    return false;
  }
}

toml::table& child_table(toml::table& parent, std::string_view name) {
  if (parent.get_as<toml::table>(name) == nullptr) parent.insert_or_assign(name, toml::table{});
  return *parent.get_as<toml::table>(name);
}

void apply_override(toml::table& root, const ConfigOverride& change) {
  const std::string_view name = change.key;
  DT_CHECK_USAGE(is_valid_utf8(name) && is_valid_utf8(change.value),
                 "command line: --{} = {}: expected UTF-8; the run could not be resumed", shown(name),
                 shown(change.value));
  for (const std::string_view table_name : {"shape", "template_variables"}) {
    const std::string prefix = fmt::format("model.{}.", table_name);
    if (!name.starts_with(prefix)) continue;
    const std::string_view field = name.substr(prefix.size());
    toml::table& table = child_table(child_table(root, "model"), table_name);
    if (!insert_parsed(table, field, change.value)) table.insert_or_assign(field, change.value);
    return;
  }
  const ConfigKey<RunConfig>* key = find_key(name);
  if (key == nullptr) unknown_key("command line", name);
  RunConfig scratch;
  const ConfigMember member = key->member(scratch);
  const bool is_text = std::holds_alternative<std::string*>(member) || std::holds_alternative<ChoiceMember>(member);
  toml::table& section = child_table(root, key->section());
  if (is_text || !insert_parsed(section, key->short_name(), change.value)) {
    section.insert_or_assign(key->short_name(), change.value);
  }
}

/// Where the first key of [model.shape] stands that `message` names; the place of model.name where it names none but
/// the name itself; else empty.
std::string place_of_shape_key(const toml::table& model, std::string_view message, const Places& places) {
  size_t first = std::string_view::npos;
  std::string place;
  if (const toml::table* shape = model["shape"].as_table()) {
    for (const auto& [key, node] : *shape) {
      const size_t at = message.find(key.str());
      if (at >= first) continue;
      first = at;
      place = places.of(node.source());
    }
  }
  const toml::node* name = model.get("name");
  if (place.empty() && message.find(name->as_string()->get()) != std::string_view::npos) {
    place = places.of(name->source());
  }
  return place;
}

/// Finds a mistake in the shape while its line is still known. A shape that is read from a file is checked when it is.
void check_named_shape(const toml::table& root, const RunConfig& config, std::string_view where, const Places& places) {
  if (config.model.name.empty()) return;
  try {
    resolve_model_config(config);
  } catch (const Error& error) {
    const std::string place = place_of_shape_key(*root["model"].as_table(), error.what(), places);
    fail_usage("{}: {}", place.empty() ? where : std::string_view(place), error.what());
  }
}

}  // namespace

std::vector<ConfigOverride> parse_overrides(std::span<const std::string> arguments) {
  std::vector<ConfigOverride> overrides;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string key = argument.substr(0, equals);
    DT_CHECK_USAGE(key.starts_with("--") && key.find('.') != std::string::npos,
                   "unexpected argument '{}'; a key of the run file is set as --section.key value", argument);
    if (equals != std::string::npos) {
      overrides.push_back({key.substr(2), argument.substr(equals + 1)});
      continue;
    }
    DT_CHECK_USAGE(i + 1 < arguments.size(), "{} needs a value: {} VALUE", key, key);
    overrides.push_back({key.substr(2), arguments[++i]});
  }
  return overrides;
}

RunConfig parse_run_config(std::string_view toml_text, std::string_view where,
                           std::span<const ConfigOverride> overrides) {
  toml::table root = parse_toml(toml_text, where);
  const Places places(where);
  const std::vector<std::string> sections = section_names();
  for (const auto& [name, node] : root) {
    const bool known = std::find(sections.begin(), sections.end(), name.str()) != sections.end();
    if (known && node.is_table()) continue;
    if (!known && !node.is_table()) unknown_key(places.of(name.source()), name.str());
    const std::string words = other_words_for(name.str());
    DT_CHECK_USAGE(known, "{}: unknown section [{}]{} (sections: {})", places.of(name.source()), name.str(),
                   words.empty() ? did_you_mean(name.str(), sections) : words, fmt::join(sections, ", "));
    fail_usage("{}: {} = {}; expected a section [{}]", places.of(node.source()), name.str(), node_text(node),
               name.str());
  }
  for (const ConfigOverride& change : overrides) apply_override(root, change);
  RunConfig config;
  for (const auto& [name, node] : root) read_section(name.str(), *node.as_table(), config, places);
  validate(config, where);
  check_named_shape(root, config, where, places);
  return config;
}

namespace {

// "; it is a directory": why a path is no file; empty where nothing is there.
std::string why_no_file(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error, ignored;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) {
    const fs::path of_run = path / "config.toml";
    const bool is_run = fs::is_regular_file(of_run, ignored);
    return "; it is a directory" + (is_run ? ", of a run whose file is " + of_run.lexically_normal().string() : "");
  }
  if (fs::exists(status)) return "; it is no regular file";
  return error == std::errc::no_such_file_or_directory ? "" : "; " + error.message();
}

}  // namespace

RunConfig load_run_config(const std::filesystem::path& path, std::span<const ConfigOverride> overrides) {
  std::error_code error;
  DT_CHECK_USAGE(std::filesystem::is_regular_file(path, error),
                 "cannot read {}: expected a run file in TOML, such as configs/tiny_v3.toml{}", path.string(),
                 why_no_file(path));
  return parse_run_config(read_file(path, kMaxRunFileBytes), path.string(), overrides);
}

}  // namespace deeptitan

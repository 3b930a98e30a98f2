#include "checkpoint/manifest.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kFormat = "deeptitan directory";
constexpr int64_t kVersion = 1;
constexpr std::string_view kDigestLine = "  \"digest of the lines above\": \"";
constexpr std::string_view kEnd = "\"\n}\n";
constexpr size_t kDigestDigits = 32;
constexpr uint64_t kSmallFile = 16 << 20;

std::string digest_of(std::string_view text) {
  Digest digest;
  digest.add(text.data(), text.size());
  return digest.hex();
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) entries.push_back(entry.path());
  if (error) fail_file("read", directory, error.value());
  std::sort(entries.begin(), entries.end());
  return entries;
}

void list_files(const fs::path& directory, const std::string& prefix, std::vector<std::string>& names) {
  for (const fs::path& path : entries_of(directory)) {
    const std::string name = prefix + path.filename().string();
    if (fs::is_directory(fs::symlink_status(path))) {
      list_files(path, name + "/", names);
    } else {
      names.push_back(name);
    }
  }
}

std::string manifest_text(int64_t step, const std::map<std::string, FileDigest>& files) {
  std::string text =
      fmt::format("{{\n  \"format\": \"{}\",\n  \"version\": {},\n  \"hash\": \"XXH3-128\",\n", kFormat, kVersion);
  text += fmt::format("  \"step\": {},\n  \"files\": {{\n", step);
  size_t left = files.size();
  for (const auto& [name, file] : files) {
    text += fmt::format("    {}: {{\"bytes\": {}, \"digest\": \"{}\"}}{}\n", ordered_json(name).dump(), file.bytes,
                        file.digest, --left == 0 ? "" : ",");
  }
  text += "  },\n";
  return fmt::format("{}{}{}{}", text, kDigestLine, digest_of(text), kEnd);
}

bool is_tensor_file(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

bool below(const std::string& directory, const std::map<std::string, FileDigest>& files) {
  const auto next = files.lower_bound(directory + "/");
  return next != files.end() && next->first.starts_with(directory + "/");
}

std::optional<fs::path> find_foreign(const fs::path& root, const std::string& prefix, const Manifest& manifest) {
  for (const fs::path& path : entries_of(root / prefix)) {
    const std::string name = prefix + path.filename().string();
    const fs::file_status status = fs::symlink_status(path);
    if (fs::is_directory(status)) {
      if (!below(name, manifest.files)) return first_file_in(path);
      if (auto found = find_foreign(root, name + "/", manifest)) return found;
      continue;
    }
    if (name == kManifestFile) continue;
    const auto listed = manifest.files.find(name);
    if (listed == manifest.files.end() || !fs::is_regular_file(status)) return path;
    if (fs::file_size(path) != listed->second.bytes) return path;
    if (listed->second.bytes <= kSmallFile && digest_of_file(path) != listed->second) return path;
  }
  return std::nullopt;
}

}  // namespace

void write_manifest(const fs::path& directory, int64_t step, std::map<std::string, FileDigest> known) {
  std::vector<std::string> names;
  list_files(directory, "", names);
  std::map<std::string, FileDigest> files;
  for (const std::string& name : names) {
    const auto found = known.find(name);
    files[name] = found != known.end() ? found->second : digest_of_file(directory / name);
  }
  write_file(directory / kManifestFile, manifest_text(step, files));
}

Manifest read_manifest(const fs::path& directory) {
  const fs::path path = directory / kManifestFile;
  DT_CHECK(fs::exists(path), "{} is missing", path.string());
  const std::string text = read_file(path);
  const size_t line = text.rfind(kDigestLine);
  const bool has_digest = line != std::string::npos &&
                          text.size() == line + kDigestLine.size() + kDigestDigits + kEnd.size() &&
                          text.ends_with(kEnd);
  DT_CHECK(has_digest && std::string_view(text).substr(line + kDigestLine.size(), kDigestDigits) ==
                             digest_of(std::string_view(text).substr(0, line)),
           "{} is damaged: its last line is not the digest of the lines above", path.string());
  const std::string where = path.string();
  const ordered_json json = read_json<ordered_json>(text, {.where = where});
  const auto member = [&](const ordered_json& object, const char* key) -> const ordered_json& {
    DT_CHECK(object.is_object() && object.contains(key), "{} is not a manifest of deeptitan: it has no \"{}\"", where,
             key);
    return object.at(key);
  };
  DT_CHECK(member(json, "format") == kFormat, "{} is not a manifest of deeptitan", where);
  const ordered_json& version = member(json, "version");
  DT_CHECK(version == kVersion, "{} has format version {}, this program reads {}; use the program that wrote it", where,
           shown_json(version), kVersion);
  const auto whole_number = [&](const ordered_json& value, std::string_view what) {
    DT_CHECK(value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX,
             "{}: {} must be a whole number, found {}", where, shown(what), json_kind(value));
    return value.get<int64_t>();
  };
  Manifest manifest;
  manifest.step = whole_number(member(json, "step"), "step");
  const ordered_json& files = member(json, "files");
  DT_CHECK(files.is_object(), "{}: files must be an object, found {}", where, json_kind(files));
  for (const auto& [name, file] : files.items()) {
    const ordered_json& digest = member(file, "digest");
    DT_CHECK(digest.is_string(), "{}: the digest of {} must be text, found {}", where, shown(name), json_kind(digest));
    manifest.files[name] = {static_cast<uint64_t>(whole_number(member(file, "bytes"), name)),
                            digest.get<std::string>()};
  }
  return manifest;
}

Manifest verify_directory(const fs::path& directory) {
  Manifest manifest = read_manifest(directory);
  for (const auto& [name, expected] : manifest.files) {
    const fs::path path = directory / name;
    DT_CHECK(fs::exists(path), "{} is missing", path.string());
    const uint64_t bytes = File::open(path).size();
    DT_CHECK(bytes == expected.bytes, "{} has {} bytes, {} were written", path.string(), bytes, expected.bytes);
    const std::string found = digest_of_file(path).digest;
    DT_CHECK(found == expected.digest, "{} was altered: its digest is {}, {} was written", path.string(), found,
             expected.digest);
  }
  std::vector<std::string> names;
  list_files(directory, "", names);
  for (const std::string& name : names) {
    DT_CHECK(!is_tensor_file(name) || manifest.files.contains(name),
             "{} is not in {}: it does not belong to this directory", (directory / name).string(), kManifestFile);
  }
  return manifest;
}

void check_model_directory(const fs::path& directory) {
  constexpr uint64_t kCheapToHash = 1 << 30;
  constexpr size_t kMostBytes = 64 << 20;
  const fs::path path = directory / kManifestFile;
  std::error_code error;
  if (!fs::is_regular_file(path, error) || read_file(path, kMostBytes).find(kFormat) == std::string::npos) return;
  for (const auto& [name, written] : read_manifest(directory).files) {
    const fs::path file = directory / name;
    if (fs::path(name).has_parent_path()) continue;  // what only resuming reads
    std::string change;
    if (!fs::exists(file, error)) {
      change = "is missing";
    } else if (const uint64_t bytes = fs::file_size(file); bytes != written.bytes) {
      change = fmt::format("has {} bytes, {} were written", bytes, written.bytes);
    } else if (bytes <= kCheapToHash && digest_of_file(file) != written) {
      change = fmt::format("is not as it was written ({} knows its digest)", kManifestFile);
    }
    if (change.empty()) continue;
    DT_CHECK(!is_tensor_file(name), "{} {}: it is damaged; use another copy or checkpoint", file.string(), change);
    log_warning(fmt::format("{} {}; if nobody edited it, it is damaged", file.string(), change));
  }
}

fs::path first_file_in(fs::path directory) {
  while (fs::is_directory(fs::symlink_status(directory))) {
    const std::vector<fs::path> entries = entries_of(directory);
    if (entries.empty()) break;
    directory = entries.front();
  }
  return directory;
}

std::optional<fs::path> foreign_entry(const fs::path& directory) {
  const fs::file_status status = fs::symlink_status(directory);
  if (!fs::exists(status)) return std::nullopt;
  if (!fs::is_directory(status)) return directory;
  if (entries_of(directory).empty()) return std::nullopt;
  std::optional<Manifest> manifest;
  try {
    manifest = read_manifest(directory);
  } catch (const Error&) {
    return first_file_in(directory);
  }
  return find_foreign(directory, "", *manifest);
}

}  // namespace deeptitan

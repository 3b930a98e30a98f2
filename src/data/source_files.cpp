#include "data/source_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>
#include <nlohmann/json.hpp>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/mapped_file.h"
#include "core/utf8.h"
#include "data/compressed_file.h"
#include "data/json_values.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kBeginning = size_t{1} << 16;
constexpr double kMostIllFormed = 0.3;  // of the characters: a text in another 8-bit encoding has fewer
constexpr size_t kFewBytes = 64;        // which say nothing of that

struct Format {
  std::string_view magic;
  std::string_view name;
};
constexpr std::array kFormats = {
    Format{"PAR1", "Parquet"},
    Format{"ARROW1", "Arrow"},
    Format{"Obj\x01", "Avro"},
    Format{"PK\x03\x04", "a zip archive"},
    Format{"BZh", "bzip2"},
    Format{"\xFD"
           "7zXZ",
           "xz"},
    Format{"\xFF\xFE", "UTF-16"},
    Format{"\xFE\xFF", "UTF-16"},
    Format{"SQLite format 3", "an SQLite database"},
    Format{"%PDF-", "PDF"},
};

bool is_hidden(const fs::path& path) {
  return path.filename().string().starts_with('.');
}

bool matches(const std::vector<std::string>& patterns, const fs::path& relative) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return ::fnmatch(pattern.c_str(), relative.c_str(), 0) == 0 ||
           ::fnmatch(pattern.c_str(), relative.filename().c_str(), 0) == 0;
  });
}

// The command that makes a text of a file that is not one; empty where there is no such thing.
std::string conversion(const std::string& holds, const fs::path& path) {
  const std::string stem = path.stem().string();
  const auto pandas = [&](std::string_view reader) {
    return fmt::format(
        "python3 -c \"import pandas; pandas.{}('{}').to_json('{}.jsonl', orient='records', lines=True)\" (with pandas "
        "and "
        "pyarrow from PyPI)",
        reader, path.string(), stem);
  };
  if (holds == "Parquet") return pandas("read_parquet");
  if (holds == "Arrow") return pandas("read_feather");
  if (holds == "bzip2") return fmt::format("bunzip2 -k {}", path.string());
  if (holds == "xz") return fmt::format("unxz -k {}", path.string());
  if (holds == "a zip archive") return fmt::format("unzip {} -d {}", path.string(), stem);
  if (holds == "UTF-16") return fmt::format("iconv -f UTF-16 -t UTF-8 {} > {}.utf8.txt", path.string(), stem);
  return {};
}

Json parse(std::string_view text) {
  return try_read_json<Json>(utf8_sanitize(text).text).value_or(Json(Json::value_t::discarded));
}

std::string_view first_line(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  return text.substr(begin, text.find('\n', begin) - begin);
}

std::string lower_name(const fs::path& path) {
  std::string name = path.filename().string();
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name + ".";
}

// A name that promises JSON lines is believed, with endings such as .gz behind it too.
bool says_json_lines(const fs::path& path) {
  const std::string name = lower_name(path);
  return name.find(".jsonl.") != std::string::npos || name.find(".ndjson.") != std::string::npos;
}

bool says_json(const fs::path& path) {
  return lower_name(path).find(".json") != std::string::npos;
}

bool has_text(const TextSource& source, const Json& value) {
  if (!value.is_object()) return false;
  const auto field = value.find(source.text_field);
  return field != value.end() && field->is_string();
}

// A conversation may be a list by itself: its elements are messages.
bool is_message_list(const Json& value) {
  return value.is_array() && !value.empty() && value[0].is_object() &&
         (value[0].contains("role") || value[0].contains("from"));
}

// In one of the shapes that parse_chat_line reads, whether it is right or not.
bool is_conversation(const TextSource& source, const Json& value) {
  if (!value.is_object()) return is_message_list(value);
  for (const std::string& field : {source.messages_field, std::string("conversations")}) {
    const auto list = value.find(field);
    if (list != value.end() && (!list->is_array() || list->empty() || is_message_list(*list))) return true;
  }
  return (value.contains("instruction") && value.contains("output")) ||
         (value.contains("prompt") && value.contains("completion"));
}

bool is_document(const TextSource& source, const Json& value) {
  return is_conversation(source, value) || (source.format != SourceFormat::kChat && has_text(source, value));
}

// Whether the values that follow one another in `text` are documents by their look: the first two objects, or the first
// one with the field; nothing where it is no such sequence.
template <typename Values>
bool look_like_documents(const TextSource& source, const Values& for_each) {
  int64_t objects = 0;
  bool documents = false;
  for_each([&](std::string_view value, int64_t /*line*/) {
    const Json json = parse(value);
    if (!json.is_object()) {
      documents = false;
      return false;
    }
    ++objects;
    documents = objects > 1 || is_document(source, json);
    return objects < 2;
  });
  return documents;
}

bool lines_are_documents(const TextSource& source, std::string_view text) {
  return look_like_documents(source, [&](const JsonValueVisitor& visit) {
    for (std::string_view line = first_line(text); !line.empty(); line = first_line(text)) {
      if (!visit(line, 0)) return;
      text.remove_prefix(static_cast<size_t>(line.data() - text.data()) + line.size());
    }
  });
}

Json first_element(std::string_view list) {
  Json first(Json::value_t::discarded);
  for_each_json_element(list, [&](std::string_view value, int64_t /*line*/) {
    first = parse(value);
    return false;
  });
  return first;
}

bool names_rows(std::string_view name) {
  constexpr std::array<std::string_view, 13> kNames = {"data",  "dataset",  "rows",     "examples", "samples",
                                                       "train", "training", "test",     "valid",    "validation",
                                                       "dev",   "eval",     "instances"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

FileLayout chat_layout(const TextSource& source, const fs::path& path, std::string_view bytes) {
  const std::string_view line = first_line(bytes);
  const Json first = parse(line);
  // A list of messages by itself is one conversation, which may go over several lines.
  if (!line.empty() && line.front() == '[' && !is_message_list(first)) {
    return is_message_list(Json::array({first_element(bytes)})) ? FileLayout::kJsonValues : FileLayout::kJsonList;
  }
  const auto member = [&] { return !list_in_object(source, path, bytes).value.empty(); };
  if (!first.is_discarded() || says_json_lines(path)) {
    return first.is_object() && member() ? FileLayout::kJsonMember : FileLayout::kJsonLines;
  }
  bool values = false;
  for_each_json_value(bytes, [&](std::string_view value, int64_t /*line*/) {
    values = parse(value).is_object();
    return false;
  });
  if (!values) return FileLayout::kJsonLines;
  return member() ? FileLayout::kJsonMember : FileLayout::kJsonValues;
}

}  // namespace

std::string what_is_binary(const fs::path& path, std::string_view bytes) {
  std::string unpacked;
  std::string_view beginning = bytes.substr(0, kBeginning);
  if (compression_of(bytes) != Compression::kNone) {
    unpacked = decompress_beginning(path, bytes, kBeginning);
    beginning = unpacked;
  }
  for (const Format& format : kFormats) {
    if (beginning.starts_with(format.magic)) return std::string(format.name);
  }
  const size_t zero = beginning.find('\0');
  if (zero != std::string_view::npos) return fmt::format("a NUL byte at {}", zero);
  // The last character may be cut here.
  if (beginning.size() == kBeginning) {
    while (!beginning.empty() && (static_cast<unsigned char>(beginning.back()) & 0xC0u) == 0x80)
      beginning.remove_suffix(1);
    if (!beginning.empty() && static_cast<unsigned char>(beginning.back()) >= 0x80) beginning.remove_suffix(1);
  }
  const auto ill_formed = static_cast<double>(utf8_sanitize(beginning).replaced_count);
  if (beginning.size() >= kFewBytes && ill_formed > kMostIllFormed * static_cast<double>(beginning.size())) {
    return fmt::format("{:.0f} % ill-formed UTF-8", 100 * ill_formed / static_cast<double>(beginning.size()));
  }
  return {};
}

FileLayout layout_of(const TextSource& source, const fs::path& path, std::string_view bytes) {
  if (source.format == SourceFormat::kPlain) return FileLayout::kText;
  if (source.format == SourceFormat::kChat) return chat_layout(source, path, bytes);
  bytes = without_byte_order_mark(bytes);
  const std::string_view line = first_line(bytes);
  const char begins = line.empty() ? '\0' : line.front();
  if (begins == '[') {
    bool strings = false;
    const bool objects = look_like_documents(source, [&](const JsonValueVisitor& visit) {
      for_each_json_element(bytes, [&](std::string_view value, int64_t number) {
        strings = strings || value.front() == '"';
        return visit(value, number);
      });
    });
    // A list of strings is taken for documents only where the name says JSON, and it is one to its end.
    if (objects || (strings && says_json(path) && parse(bytes).is_array())) {
      return FileLayout::kJsonList;
    }
  }
  if (says_json_lines(path)) return FileLayout::kJsonLines;
  if (begins != '{') return FileLayout::kText;
  if (parse(line).is_object()) {
    if (lines_are_documents(source, bytes)) return FileLayout::kJsonLines;
  } else if (look_like_documents(source, [&](const JsonValueVisitor& visit) { for_each_json_value(bytes, visit); })) {
    return FileLayout::kJsonValues;
  }
  return list_in_object(source, path, bytes).value.empty() ? FileLayout::kText : FileLayout::kJsonMember;
}

JsonMember list_in_object(const TextSource& source, const fs::path& path, std::string_view bytes) {
  bytes = without_byte_order_mark(bytes);
  const std::vector<JsonMember> members = json_members(bytes);
  std::vector<JsonMember> lists;
  for (const JsonMember& member : members) {
    const bool is_text_field = source.format != SourceFormat::kChat && member.name == source.text_field;
    DT_CHECK_USAGE(!is_text_field || member.value.front() != '{' || !says_json(path) || !parse(bytes).is_object(),
                   "{}:{}: field '{}' is an object: a table by columns, as pandas writes it by itself; write it with "
                   "to_json(..., orient='records', lines=True)",
                   path.string(), member.line, member.name);
    if (member.value.front() != '[') continue;
    const Json first = first_element(member.value);
    const bool is_named = is_text_field || names_rows(member.name);
    const bool documents =
        is_document(source, first) || (is_named && (first.is_object() || (first.is_string() && says_json(path))));
    if (documents) lists.push_back(member);
  }
  // The object is a conversation, which holds lists.
  if (lists.empty() || is_document(source, parse(bytes))) return {};
  if (lists.size() == 1) return lists.front();
  std::vector<std::string_view> names;
  names.reserve(lists.size());
  for (const JsonMember& list : lists) names.push_back(list.name);
  fail_usage(
      "{} is one object with several lists that may be meant ({}); make a file of one: python3 -c \"import json; "
      "[print(json.dumps(row)) for row in json.load(open('{}'))['{}']]\" > {}.jsonl",
      path.string(), fmt::join(names, ", "), path.string(), names.front(), names.front());
}

SourceFiles list_source_files(const TextSource& source, const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  DT_CHECK_USAGE(fs::exists(status), "cannot read the text {}: {}", path.string(),
                 error == std::errc::no_such_file_or_directory ? "no such file or directory" : error.message());
  SourceFiles found;
  if (!fs::is_directory(status)) {
    const MappedFile file(path);
    const std::string holds = what_is_binary(path, file.bytes());
    const std::string command = conversion(holds, path);
    DT_CHECK_USAGE(holds.empty(), "{} holds no text that can be read ({}){}", path.string(), holds,
                   command.empty() ? "; name a text or JSON file" : "; this converts it: " + command);
    found.files = {path};
    return found;
  }
  std::vector<fs::path> all;
  auto entry = fs::recursive_directory_iterator(path, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (is_hidden(entry->path())) {
      if (entry->is_directory()) entry.disable_recursion_pending();
    } else if (entry->is_regular_file()) {
      all.push_back(entry->path());
    }
  }
  DT_CHECK_USAGE(!error, "cannot read the directory {}: {}", path.string(), error.message());
  std::sort(all.begin(), all.end());
  for (const fs::path& file : all) {
    const fs::path relative = file.lexically_relative(path);
    if ((!source.include.empty() && !matches(source.include, relative)) || matches(source.exclude, relative)) {
      ++found.not_chosen;
      continue;
    }
    std::string holds = what_is_binary(file, MappedFile(file).bytes());
    if (holds.empty()) {
      found.files.push_back(file);
    } else if (++found.binary == 1) {
      found.first_binary = file;
      found.first_binary_holds = std::move(holds);
    }
  }
  DT_CHECK_USAGE(!found.files.empty(), "the directory {} holds no text; expected text or JSON files{}{}", path.string(),
                 found.not_chosen > 0
                     ? fmt::format(", and include and exclude leave out {} of {} files", found.not_chosen, all.size())
                     : "",
                 found.binary > 0 ? fmt::format(", found {} binary ones, the first {} ({})", found.binary,
                                                found.first_binary.string(), found.first_binary_holds)
                                  : "");
  return found;
}

}  // namespace deeptitan

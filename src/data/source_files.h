#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "config/run_config.h"
#include "data/json_values.h"

namespace deeptitan {

/// The files of a source, and what was left out of its directory.
struct SourceFiles {
  std::vector<std::filesystem::path> files;
  int64_t binary = 0;  // files that hold no text
  std::filesystem::path first_binary;
  std::string first_binary_holds;  // "Parquet", "a NUL byte at 12"
  int64_t not_chosen = 0;          // by source.include and source.exclude
};

/// The files at `path`, read as `source` says: `path` itself, or every file below it, in the order of their names;
/// names that begin with a dot are left out, and of a directory what source.include and source.exclude do not choose,
/// and what holds no text. Throws a usage error if none is left, and where `path` itself is a file that holds no text;
/// for Parquet and its kind it says the command that converts it.
SourceFiles list_source_files(const TextSource& source, const std::filesystem::path& path);

/// What tells that a file with this beginning holds no text: the name of a format, or the place of a byte; empty for a
/// text. What is compressed counts by what it holds.
std::string what_is_binary(const std::filesystem::path& path, std::string_view bytes);

/// How the documents of a file lie in it.
enum class FileLayout {
  kText,        // as they stand, with separators
  kJsonLines,   // a JSON object (chat: any value) a line
  kJsonValues,  // JSON objects one after another, over several lines
  kJsonList,    // one JSON list of them
  kJsonMember,  // such a list in one JSON object (list_in_object)
};

/// The layout of a file by its name and by what it holds (uncompressed, without a byte order mark). A name that says
/// JSON lines (.jsonl or .ndjson, in any case, with endings behind it) is believed; otherwise it is JSON where the
/// first value has the field that is asked for, or where several objects follow one another or stand in a list, also
/// one that lies in an object. Throws a usage error where such an object holds several lists, or columns in place of
/// rows.
FileLayout layout_of(const TextSource& source, const std::filesystem::path& path, std::string_view bytes);

/// The list of documents in a file of one JSON object that is none itself, {"data": [...]}: the member whose elements
/// look like documents as `source` reads them, or whose name says that they are a data set's rows; the elements are
/// those of json_members, without any where there is none. Throws as layout_of does.
JsonMember list_in_object(const TextSource& source, const std::filesystem::path& path, std::string_view bytes);

}  // namespace deeptitan

// JSON of foreign files: config.json, tokenizer.json, chats, indexes, listings, training state. Everything that is read
// goes through read_json, and every value that a message names goes through shown_json.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace deeptitan {

/// What an error says of the text, and how deep it may be nested.
struct JsonSource {
  std::string_view where;                // the file, or "file:line"
  ErrorKind kind = ErrorKind::kRuntime;  // of the errors
  std::string_view advice = {};          // what to do, at the end of every error: "fetch it again"
  size_t max_depth = 100;
};

/// The value of a JSON text (RFC 8259), of type nlohmann::json or nlohmann::ordered_json. Throws Error, with the place
/// and the path of the key, for what is no JSON, for a key that stands twice in an object, and for arrays and objects
/// nested deeper than source.max_depth.
///
/// Python's json module writes more than JSON: NaN, Infinity, -Infinity and halves of surrogate pairs; and numbers
/// beyond a double (1e999) are JSON. Such a value is kept as it is spelled, as a `binary` value: it is in nobody's way
/// where it is not wanted, and no number or text where one is. write_json writes it back.
template <typename Json = nlohmann::json>
Json read_json(std::string_view text, const JsonSource& source);

/// As read_json of the file's bytes, which may be `max_bytes` at most.
template <typename Json = nlohmann::json>
Json read_json_file(const std::filesystem::path& path, const JsonSource& source, size_t max_bytes = size_t{64} << 20);

/// The value; nothing where read_json would throw.
template <typename Json = nlohmann::json>
std::optional<Json> try_read_json(std::string_view text);

/// The value as JSON, as a message may hold it: control characters escaped, cut after about `most` bytes.
template <typename Json>
std::string shown_json(const Json& value, size_t most = 120);

/// The value as JSON text; `indent` spaces a level, -1 for one line.
template <typename Json>
std::string write_json(const Json& value, int indent = -1);

/// "an object", "a text", "NaN" ...: what an error says was found.
template <typename Json>
std::string json_kind(const Json& value);

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "config/run_config.h"

namespace deeptitan {

/// What reading a text met.
struct TextStatistics {
  int64_t files = 0;
  int64_t documents = 0;
  int64_t bytes = 0;                // of the documents, as valid UTF-8
  int64_t replaced_characters = 0;  // ill-formed parts that became U+FFFD
  int64_t answers_without_end = 0;  // conversations in which an answer does not end with the eos token
};

/// Calls `visit` with each document of the files at `path` (list_source_files) in order, read as `source` says. Where
/// source.format is kText, a file of JSON (layout_of) holds objects, whose source.text_field is a document, or strings,
/// which are documents; any other file, and where it is kPlain every file, is one document, or several where
/// source.document_separator is set. Compressed files count as what they hold. Documents are valid UTF-8 (what is not
/// is replaced and counted) and never empty or blank; a view lives until `visit` returns. Throws a usage error that
/// names file and line for a value that is not such an object. Where source.format is kChat, every line, or every value
/// of a JSON list, is a document, to be read by parse_chat_line; `where` is then its file:line, and empty otherwise.
TextStatistics for_each_document(const TextSource& source, const std::filesystem::path& path,
                                 const std::function<void(std::string_view document, const std::string& where)>& visit);

}  // namespace deeptitan

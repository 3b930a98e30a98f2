#include "data/text_documents.h"

#include <algorithm>
#include <string>
#include <system_error>

#include <nlohmann/json.hpp>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/utf8.h"
#include "data/mapped_file.h"

namespace deeptitan {

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

bool is_hidden(const std::filesystem::path& path) {
  return path.filename().string().starts_with('.');
}

class DocumentReader {
 public:
  using Visitor = std::function<void(std::string_view, const std::string&)>;

  DocumentReader(const TextSource& source, const Visitor& visit) : source_(source), visit_(visit) {}

  void read(const std::filesystem::path& path) {
    const MappedFile file(path);
    std::string_view bytes = file.bytes();
    if (bytes.starts_with(kByteOrderMark)) bytes.remove_prefix(kByteOrderMark.size());
    ++statistics_.files;
    if (source_.format == SourceFormat::kChat) {
      for_each_line(bytes, path, [this](std::string_view line, const std::string& where) { add(line, where); });
    } else if (path.extension() == ".jsonl") {
      for_each_line(bytes, path,
                    [this](std::string_view line, const std::string& where) { read_json_line(line, where); });
    } else if (source_.document_separator.empty()) {
      add(bytes, {});
    } else {
      split(bytes, source_.document_separator, [this](std::string_view document) { add(document, {}); });
    }
  }

  const TextStatistics& statistics() const { return statistics_; }

 private:
  template <typename PartVisitor>
  static void split(std::string_view text, std::string_view separator, const PartVisitor& visit_part) {
    while (true) {
      const size_t end = text.find(separator);
      visit_part(text.substr(0, end));
      if (end == std::string_view::npos) return;
      text.remove_prefix(end + separator.size());
    }
  }

  /// Lines that are not blank, with their file:line.
  template <typename LineVisitor>
  static void for_each_line(std::string_view bytes, const std::filesystem::path& path, const LineVisitor& visit_line) {
    int64_t line_number = 0;
    split(bytes, "\n", [&](std::string_view line) {
      ++line_number;
      if (!is_blank(line)) visit_line(line, fmt::format("{}:{}", path.string(), line_number));
    });
  }

  void read_json_line(std::string_view line, const std::string& where) {
    const SanitizedText sanitized = sanitize(line);
    const nlohmann::json object = nlohmann::json::parse(sanitized.text, nullptr, /*allow_exceptions=*/false);
    DT_CHECK_USAGE(object.is_object(), "{}: expected a JSON object on each line of a .jsonl file", where);
    const auto field = object.find(source_.text_field);
    if (field == object.end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : object.items()) names.push_back(name);
      DT_CHECK_USAGE(!object.contains("messages"),
                     "{}: no field '{}', but messages; set format = \"chat\" for the source to train on conversations",
                     where, source_.text_field);
      fail_usage("{}: no field '{}'{} (fields: {}); set text_field of the source to the one that holds the text", where,
                 source_.text_field, did_you_mean(source_.text_field, names), fmt::join(names, ", "));
    }
    DT_CHECK_USAGE(field->is_string(), "{}: field '{}' is {}; expected a text", where, source_.text_field,
                   field->type_name());
    deliver(field->get_ref<const std::string&>(), {});
  }

  void add(std::string_view document, const std::string& where) {
    if (is_valid_utf8(document)) {
      deliver(document, where);
    } else {
      deliver(sanitize(document).text, where);
    }
  }

  SanitizedText sanitize(std::string_view text) {
    SanitizedText sanitized = utf8_sanitize(text);
    statistics_.replaced_characters += sanitized.replaced_count;
    return sanitized;
  }

  void deliver(std::string_view document, const std::string& where) {
    if (is_blank(document)) return;
    ++statistics_.documents;
    statistics_.bytes += static_cast<int64_t>(document.size());
    visit_(document, where);
  }

  const TextSource& source_;
  const Visitor& visit_;
  TextStatistics statistics_;
};

}  // namespace

std::vector<std::filesystem::path> list_text_files(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  DT_CHECK_USAGE(std::filesystem::exists(status), "cannot read the text {}: no such file or directory", path.string());
  if (!std::filesystem::is_directory(status)) return {path};
  std::vector<std::filesystem::path> files;
  auto entry = std::filesystem::recursive_directory_iterator(path, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
    if (is_hidden(entry->path())) {
      if (entry->is_directory()) entry.disable_recursion_pending();
    } else if (entry->is_regular_file()) {
      files.push_back(entry->path());
    }
  }
  DT_CHECK_USAGE(!error, "cannot read the directory {}: {}", path.string(), error.message());
  DT_CHECK_USAGE(!files.empty(), "the directory {} holds no text; expected text files or .jsonl files", path.string());
  std::sort(files.begin(), files.end());
  return files;
}

TextStatistics for_each_document(
    const TextSource& source, const std::filesystem::path& path,
    const std::function<void(std::string_view document, const std::string& where)>& visit) {
  DocumentReader reader(source, visit);
  for (const std::filesystem::path& file : list_text_files(path)) reader.read(file);
  return reader.statistics();
}

}  // namespace deeptitan

#include "data/text_documents.h"

#include <algorithm>
#include <optional>
#include <string>

#include "config/nearest_name.h"
#include "core/byte_order_mark.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/mapped_file.h"
#include "core/utf8.h"
#include "data/compressed_file.h"
#include "data/json_values.h"
#include "data/source_files.h"

namespace deeptitan {

namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

/// What stands between two documents. A line feed in it stands for the line end of the file, CR LF or LF.
class Separator {
 public:
  struct Match {
    size_t place;  // npos: nowhere
    size_t bytes;
  };

  explicit Separator(std::string_view text) {
    for (size_t i = 0; i < text.size(); ++i) {
      if (!text.substr(i).starts_with("\r\n")) text_ += text[i];
    }
  }

  /// The first place in `text` where it stands.
  Match find(std::string_view text) const {
    for (size_t at = text.find(text_[0]); at != std::string_view::npos; at = text.find(text_[0], at + 1)) {
      const size_t begin = text_[0] == '\n' && at > 0 && text[at - 1] == '\r' ? at - 1 : at;
      if (const size_t bytes = bytes_at(text.substr(begin)); bytes > 0) return {begin, bytes};
    }
    return {std::string_view::npos, 0};
  }

 private:
  // How many bytes it takes at the beginning of `text`; 0 where it does not stand there.
  size_t bytes_at(std::string_view text) const {
    size_t at = 0;
    for (const char c : text_) {
      if (c == '\n' && text.substr(at).starts_with("\r\n")) ++at;
      if (at == text.size() || text[at] != c) return 0;
      ++at;
    }
    return at;
  }

  std::string text_;
};

class DocumentReader {
 public:
  using Visitor = std::function<void(std::string_view, const std::string&)>;

  DocumentReader(const TextSource& source, const Visitor& visit) : source_(source), visit_(visit) {}

  void read(const std::filesystem::path& path) {
    const MappedFile file(path);
    std::optional<MappedFile> unpacked;
    if (compression_of(file.bytes()) != Compression::kNone) unpacked = decompress(path, file.bytes());
    const std::string_view bytes = without_byte_order_mark(unpacked ? unpacked->bytes() : file.bytes());
    ++statistics_.files;
    switch (layout_of(source_, path, bytes)) {
      case FileLayout::kText:
        read_text(bytes);
        break;
      case FileLayout::kJsonLines:
        for_each_line(bytes, path, [this](std::string_view line, const std::string& where) { read_json(line, where); });
        break;
      case FileLayout::kJsonValues:
        read_values(path, bytes, for_each_json_value, "JSON objects one after another");
        break;
      case FileLayout::kJsonList:
        read_values(path, bytes, for_each_json_element, "a JSON list");
        break;
      case FileLayout::kJsonMember: {
        const JsonMember list = list_in_object(source_, path, bytes);
        read_values(path, list.value, for_each_json_element, "a JSON list", list.line);
        break;
      }
    }
  }

  const TextStatistics& statistics() const { return statistics_; }

 private:
  void read_text(std::string_view bytes) {
    if (source_.document_separator.empty()) {
      add(bytes, {});
      return;
    }
    const Separator separator(source_.document_separator);
    while (true) {
      const Separator::Match match = separator.find(bytes);
      add(bytes.substr(0, match.place), {});
      if (match.place == std::string_view::npos) return;
      bytes.remove_prefix(match.place + match.bytes);
    }
  }

  template <typename ForEach>
  void read_values(const std::filesystem::path& path, std::string_view bytes, const ForEach& for_each,
                   std::string_view expected, int64_t first_line = 1) {
    int64_t last = first_line;
    const JsonSequenceEnd end = for_each(bytes, [&](std::string_view value, int64_t line) {
      last = first_line + line - 1;
      read_json(value, fmt::format("{}:{}", path.string(), last));
      return true;
    });
    DT_CHECK_USAGE(end == JsonSequenceEnd::kWhole,
                   "{}: expected {} to the end of the file; what follows line {} is not, or is cut short",
                   path.string(), expected, last);
  }

  /// Lines that are not blank, with their file:line.
  template <typename LineVisitor>
  static void for_each_line(std::string_view bytes, const std::filesystem::path& path, const LineVisitor& visit_line) {
    for (int64_t line_number = 1; !bytes.empty(); ++line_number) {
      const std::string_view line = bytes.substr(0, bytes.find('\n'));
      bytes.remove_prefix(std::min(line.size() + 1, bytes.size()));
      if (!is_blank(line)) visit_line(line, fmt::format("{}:{}", path.string(), line_number));
    }
  }

  /// A document that is JSON, or lies in it.
  void read_json(std::string_view text, const std::string& where) {
    if (source_.format == SourceFormat::kChat) {
      add(text, where);
      return;
    }
    const SanitizedText sanitized = sanitize(text);
    const nlohmann::json object = deeptitan::read_json(sanitized.text, {.where = where, .kind = ErrorKind::kUsage});
    if (object.is_string()) {
      deliver(object.get_ref<const std::string&>(), {});
      return;
    }
    DT_CHECK_USAGE(object.is_object(), "{}: expected a JSON object, found {}", where, json_kind(object));
    const auto field = object.find(source_.text_field);
    if (field == object.end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : object.items()) names.push_back(name);
      for (const auto& keys : {std::pair("messages", ""), std::pair("conversations", ""),
                               std::pair("instruction", "output"), std::pair("prompt", "completion")}) {
        const std::string_view first = keys.first, second = keys.second;
        if (!object.contains(first) || (!second.empty() && !object.contains(second))) continue;
        fail_usage("{}: no field '{}', but {}{}{}; set format = \"chat\" for the source to train on conversations",
                   where, source_.text_field, first, second.empty() ? "" : " and ", second);
      }
      fail_usage(
          "{}: no field '{}'{} (fields: {}); set text_field of the source to the one that holds the text, or format = "
          "\"plain\" to train on the JSON as it stands",
          where, source_.text_field, did_you_mean(source_.text_field, names), fmt::join(names, ", "));
    }
    DT_CHECK_USAGE(field->is_string(), "{}: field '{}' is {}; expected a text", where, source_.text_field,
                   json_kind(*field));
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

TextStatistics for_each_document(
    const TextSource& source, const std::filesystem::path& path,
    const std::function<void(std::string_view document, const std::string& where)>& visit) {
  DocumentReader reader(source, visit);
  for (const std::filesystem::path& file : list_source_files(source, path).files) reader.read(file);
  return reader.statistics();
}

}  // namespace deeptitan

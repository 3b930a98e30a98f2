#include "core/json_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/file.h"
#include "core/shown_text.h"

namespace deeptitan {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// Values of Python's JSON that nlohmann's parser does not take: where they stand among all keys and scalars, and how
/// they are spelled.
using OddValues = std::unordered_map<size_t, std::string_view>;

/// Objects of few keys are searched for an equal one, others keep a set.
constexpr size_t kFewKeys = 16;

[[noreturn]] void refuse(const JsonSource& source, const std::string& problem) {
  throw Error(fmt::format("{}: {}{}{}", source.where, problem, source.advice.empty() ? "" : "; ", source.advice),
              source.kind);
}

/// Builds the value from the parser's events.
template <typename Json>
class ValueBuilder : public nlohmann::json_sax<Json> {
 public:
  using Base = nlohmann::json_sax<Json>;

  ValueBuilder(const JsonSource& source, const OddValues& odd) : source_(source), odd_(odd) {}

  Json take() { return std::move(root_); }
  size_t error_position() const { return error_position_; }
  const std::string& error_words() const { return error_words_; }

  bool null() override { return scalar(Json(nullptr)); }
  bool boolean(bool value) override { return scalar(Json(value)); }
  bool number_integer(int64_t value) override { return scalar(Json(value)); }
  bool number_unsigned(uint64_t value) override { return scalar(Json(value)); }
  bool number_float(double value, const std::string& /*spelling*/) override { return scalar(Json(value)); }
  bool string(std::string& value) override { return scalar(Json(std::move(value))); }
  bool binary(typename Json::binary_t& /*value*/) override { return false; }
  bool start_object(size_t /*size*/) override { return open(Json::object()); }
  bool start_array(size_t /*size*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    ++ordinal_;
    Frame& frame = frames_.back();
    if (!add_key(frame, name)) {
      const std::string place = path(frames_.size() - 1);
      refuse(source_, fmt::format("\"{}\" stands twice{}{}", shown(name), place.empty() ? "" : " in ", place));
    }
    frame.key = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string& /*last*/, const nlohmann::json::exception& error) override {
    error_position_ = position;
    const std::string_view words = error.what();
    const size_t begin = words.find(" - "), end = words.find("; last read");
    const std::string_view reason = begin == words.npos ? "" : words.substr(begin + 3, end - begin - 3);
    const size_t expected = words.find("; expected ");
    error_words_ = reason;
    if (expected != words.npos && expected >= end) error_words_ += words.substr(expected);
    return false;
  }

  /// "a.b[3]": where the parser stands, in the first `frame_count` open arrays and objects.
  std::string path(size_t frame_count) const {
    std::string text;
    for (size_t i = 0; i < std::min(frame_count, frames_.size()) && text.size() < 400; ++i) {
      const Frame& frame = frames_[i];
      if (frame.value.is_object()) {
        text += (text.empty() ? "" : ".") + shown(frame.key, 60);
      } else {
        text += fmt::format("[{}]", frame.value.size());
      }
    }
    return text;
  }
  std::string path() const { return path(frames_.size()); }

 private:
  struct Frame {
    Json value;
    std::string key;
    std::unordered_set<std::string> keys;  // only beyond kFewKeys
  };

  static bool add_key(Frame& frame, const std::string& name) {
    const auto& object = frame.value.template get_ref<const typename Json::object_t&>();
    if constexpr (std::is_same_v<Json, json>) {
      return !object.contains(name);
    } else {
      if (object.size() < kFewKeys) {
        return std::none_of(object.begin(), object.end(), [&](const auto& member) { return member.first == name; });
      }
      if (frame.keys.empty()) {
        for (const auto& member : object) frame.keys.insert(member.first);
      }
      return frame.keys.insert(name).second;
    }
  }

  bool open(Json value) {
    if (frames_.size() >= source_.max_depth) {
      refuse(source_, fmt::format("arrays and objects are nested more than {} deep, at {}", source_.max_depth,
                                  shown(path(), 100)));
    }
    frames_.push_back({std::move(value), {}, {}});
    return true;
  }

  bool close() {
    Json value = std::move(frames_.back().value);
    frames_.pop_back();
    return add(std::move(value));
  }

  bool scalar(Json value) {
    const auto found = odd_.find(ordinal_++);
    if (found == odd_.end()) return add(std::move(value));
    return add(Json::binary({found->second.begin(), found->second.end()}));
  }

  bool add(Json value) {
    if (frames_.empty()) {
      root_ = std::move(value);
      return true;
    }
    Frame& frame = frames_.back();
    if (frame.value.is_array()) {
      frame.value.push_back(std::move(value));
    } else if constexpr (std::is_same_v<Json, json>) {
      frame.value.template get_ref<json::object_t&>().emplace(frame.key, std::move(value));
    } else {
      frame.value.template get_ref<ordered_json::object_t&>().push_back({frame.key, std::move(value)});
    }
    return true;
  }

  const JsonSource& source_;
  const OddValues& odd_;
  std::vector<Frame> frames_;
  Json root_;
  size_t ordinal_ = 0;  // of keys and scalars
  size_t error_position_ = 0;
  std::string error_words_;
};

/// Replaces what Python's json writes beyond JSON by JSON of the same length, and says where it stood.
class OddValueScan {
 public:
  explicit OddValueScan(std::string_view text) : text_(text), plain_(text) {}

  void run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        string();
      } else if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '+' || c == '.') {
        word();
      } else {
        ++at_;
      }
    }
  }

  const std::string& plain() const { return plain_; }
  const OddValues& odd() const { return odd_; }

 private:
  void word() {
    const size_t begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '-' ||
                                  text_[at_] == '+' || text_[at_] == '.')) {
      ++at_;
    }
    const std::string_view spelled = text_.substr(begin, at_ - begin);
    if (spelled == "NaN" || spelled == "Infinity" || spelled == "-Infinity" || is_beyond_double(spelled)) {
      plain_.replace(begin, spelled.size(), "0" + std::string(spelled.size() - 1, ' '));
      odd_.emplace(ordinal_, spelled);
    }
    ++ordinal_;
  }

  static bool is_beyond_double(std::string_view spelled) {
    double value = 0;
    const auto [end, error] = std::from_chars(spelled.data(), spelled.data() + spelled.size(), value);
    if (error != std::errc::result_out_of_range || end != spelled.data() + spelled.size()) return false;
    // from_chars says the same of numbers too small; they are 0 to the parser.
    return std::isinf(std::strtod(std::string(spelled).c_str(), nullptr));
  }

  /// The four hexadecimal digits after a `\u` at `at`; -1 if there is none.
  int unit_at(size_t at) const {
    if (at + 6 > text_.size() || text_[at] != '\\' || text_[at + 1] != 'u') return -1;
    int unit = 0;
    const char* end = text_.data() + at + 6;
    const auto [stop, error] = std::from_chars(end - 4, end, unit, 16);
    return error == std::errc() && stop == end && unit >= 0 ? unit : -1;
  }

  void string() {
    const size_t begin = at_++;
    bool lone = false;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] != '\\') {
        ++at_;
        continue;
      }
      const int unit = unit_at(at_);
      if (unit < 0xd800 || unit > 0xdfff) {
        at_ += 2;
        continue;
      }
      const int next = unit_at(at_ + 6);
      if (unit < 0xdc00 && next >= 0xdc00 && next <= 0xdfff) {
        at_ += 12;
        continue;
      }
      lone = true;
      plain_.replace(at_, 6, "\\ufffd");
      at_ += 6;
    }
    at_ = std::min(at_ + 1, text_.size());
    if (lone) odd_.emplace(ordinal_, text_.substr(begin, at_ - begin));
    ++ordinal_;
  }

  std::string_view text_;
  std::string plain_;
  OddValues odd_;
  size_t at_ = 0;
  size_t ordinal_ = 0;
};

std::string place_in(std::string_view text, size_t position) {
  const std::string_view before = text.substr(0, std::min(position, text.size()));
  if (text.find('\n') == text.npos) return fmt::format("byte {}", position);
  const size_t line_begin = before.rfind('\n') == before.npos ? 0 : before.rfind('\n') + 1;
  return fmt::format("line {}, column {}", 1 + std::count(before.begin(), before.end(), '\n'),
                     std::max<size_t>(1, before.size() - line_begin));
}

template <typename Json>
[[noreturn]] void refuse_text(std::string_view text, const JsonSource& source, const ValueBuilder<Json>& builder) {
  const size_t position = builder.error_position();
  if (text.find_first_not_of(" \t\r\n") == text.npos) refuse(source, "not valid JSON: there is nothing in it");
  const std::string path = builder.path();
  const std::string place = place_in(text, position) + (path.empty() ? "" : ", at " + shown(path, 200));
  if (position > text.size()) refuse(source, fmt::format("not valid JSON: it ends too early ({})", place));
  const size_t begin = position == 0 ? 0 : position - 1;
  refuse(source, fmt::format("not valid JSON ({}): {}, found '{}'", place, builder.error_words(),
                             shown(text.substr(begin, 24), 24)));
}

/// Writes a value, and stops once there are more than `most` bytes.
template <typename Json>
class JsonWriter {
 public:
  JsonWriter(int indent, size_t most) : indent_(indent), most_(most) {}

  void write(const Json& value, int level) {
    if (out_.size() > most_) return;
    if (value.is_object()) {
      list(value, level, '{', '}', [&](const auto& member) {
        text(member.key());
        out_ += indent_ < 0 ? ":" : ": ";
        write(member.value(), level + 1);
      });
    } else if (value.is_array()) {
      list(value, level, '[', ']', [&](const auto& member) { write(member.value(), level + 1); });
    } else if (value.is_binary()) {
      const auto& spelled = value.get_binary();
      out_.append(spelled.begin(), spelled.end());
    } else if (value.is_string()) {
      text(value.template get_ref<const std::string&>());
    } else {
      out_ += value.dump();
    }
  }

  std::string take() { return std::move(out_); }

 private:
  template <typename Member>
  void list(const Json& value, int level, char begin, char end, const Member& member) {
    out_ += begin;
    bool first = true;
    for (auto it = value.begin(); it != value.end() && out_.size() <= most_; ++it) {
      if (!first) out_ += ",";
      first = false;
      new_line(level + 1);
      member(it);
    }
    if (!first) new_line(level);
    out_ += end;
  }

  void new_line(int level) {
    if (indent_ < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(level) * static_cast<size_t>(indent_), ' ');
  }

  void text(const std::string& value) {
    const bool cut = value.size() > most_;
    const auto replace = Json::error_handler_t::replace;
    out_ += Json(cut ? value.substr(0, most_) : value).dump(-1, ' ', false, replace);
  }

  int indent_;
  size_t most_;
  std::string out_;
};

}  // namespace

template <typename Json>
Json read_json(std::string_view text, const JsonSource& source) {
  const OddValues none;
  ValueBuilder<Json> strict(source, none);
  const size_t zero = text.find('\0');
  if (Json::sax_parse(text.begin(), text.end(), &strict)) {
    // For the parser it is the end of the text, whatever follows.
    if (zero != text.npos) refuse(source, fmt::format("not valid JSON ({}): a NUL byte", place_in(text, zero + 1)));
    return strict.take();
  }
  OddValueScan scan(text);
  scan.run();
  if (scan.odd().empty()) refuse_text(text, source, strict);
  ValueBuilder<Json> builder(source, scan.odd());
  if (!Json::sax_parse(scan.plain().begin(), scan.plain().end(), &builder)) refuse_text(text, source, builder);
  return builder.take();
}

template <typename Json>
Json read_json_file(const std::filesystem::path& path, const JsonSource& source, size_t max_bytes) {
  return read_json<Json>(read_file(path, max_bytes), source);
}

template <typename Json>
std::optional<Json> try_read_json(std::string_view text) {
  try {
    return read_json<Json>(text, {.where = "text"});
  } catch (const Error&) {
    return std::nullopt;
  }
}

template <typename Json>
std::string shown_json(const Json& value, size_t most) {
  JsonWriter<Json> writer(-1, most);
  writer.write(value, 0);
  const std::string text = writer.take();
  // What was not written is not counted, so no length is said.
  return text.size() <= most ? shown(text, most) : shown(text.substr(0, most), most) + "...";
}

template <typename Json>
std::string write_json(const Json& value, int indent) {
  JsonWriter<Json> writer(indent, std::string::npos);
  writer.write(value, 0);
  return writer.take();
}

template <typename Json>
std::string json_kind(const Json& value) {
  if (!value.is_binary()) return value.type_name();
  const auto& spelled = value.get_binary();
  if (!spelled.empty() && spelled.front() == '"') {
    return fmt::format("a string with half a surrogate pair, {}", shown_json(value, 60));
  }
  const bool number = std::isdigit(spelled.back()) != 0;
  return fmt::format("{}, {}", shown_json(value, 40),
                     number ? "beyond what a number can hold" : "which is no number of JSON");
}

template json read_json(std::string_view, const JsonSource&);
template ordered_json read_json(std::string_view, const JsonSource&);
template std::optional<json> try_read_json(std::string_view);
template std::optional<ordered_json> try_read_json(std::string_view);
template json read_json_file(const std::filesystem::path&, const JsonSource&, size_t);
template ordered_json read_json_file(const std::filesystem::path&, const JsonSource&, size_t);
template std::string shown_json(const json&, size_t);
template std::string shown_json(const ordered_json&, size_t);
template std::string write_json(const json&, int);
template std::string write_json(const ordered_json&, int);
template std::string json_kind(const json&);
template std::string json_kind(const ordered_json&);

}  // namespace deeptitan

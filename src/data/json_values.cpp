#include "data/json_values.h"

#include <algorithm>

namespace deeptitan {
namespace {

constexpr std::string_view kWhiteSpace = " \t\r\n";

// A place in a text that moves forward, and the line that it stands on.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  bool at_end() const { return place_ == text_.size(); }
  char next() const { return text_[place_]; }
  int64_t line() const { return line_; }

  void skip_white_space() { move_to(std::min(text_.find_first_not_of(kWhiteSpace, place_), text_.size())); }
  void skip(size_t bytes) { move_to(place_ + bytes); }

  // A number, true, false or null: whatever stands before the next comma or bracket.
  std::string_view take_word() {
    const size_t end = std::min(text_.find_first_of(",]}", place_), text_.size());
    const std::string_view word = text_.substr(place_, end - place_);
    move_to(end);
    return word;
  }

  // The value that begins here and moves behind it; empty, and nothing moves, where it has no end or begins no object,
  // array or string.
  std::string_view take_value() {
    const size_t end = text_[place_] == '"' ? end_of_string(place_) : end_of_brackets();
    if (end == std::string_view::npos) return {};
    const std::string_view value = text_.substr(place_, end - place_);
    move_to(end);
    return value;
  }

 private:
  void move_to(size_t place) {
    line_ +=
        std::count(text_.begin() + static_cast<int64_t>(place_), text_.begin() + static_cast<int64_t>(place), '\n');
    place_ = place;
  }

  size_t end_of_string(size_t begin) const {
    for (size_t i = text_.find_first_of("\"\\", begin + 1); i != std::string_view::npos;
         i = text_.find_first_of("\"\\", i + 2)) {
      if (text_[i] == '"') return i + 1;
      if (i + 2 >= text_.size()) break;
    }
    return std::string_view::npos;
  }

  size_t end_of_brackets() const {
    int64_t depth = 0;
    for (size_t i = place_; i < text_.size(); ++i) {
      switch (text_[i]) {
        case '{':
        case '[':
          ++depth;
          break;
        case '}':
        case ']':
          if (--depth == 0) return i + 1;
          break;
        case '"':
          i = end_of_string(i);
          if (i == std::string_view::npos) return i;
          --i;
          break;
        default:
          break;
      }
      if (depth <= 0) break;
    }
    return std::string_view::npos;
  }

  std::string_view text_;
  size_t place_ = 0;
  int64_t line_ = 1;
};

}  // namespace

JsonSequenceEnd for_each_json_value(std::string_view text, const JsonValueVisitor& visit) {
  Cursor cursor(text);
  for (cursor.skip_white_space(); !cursor.at_end(); cursor.skip_white_space()) {
    const int64_t line = cursor.line();
    const std::string_view value = cursor.next() == '"' ? std::string_view() : cursor.take_value();
    if (value.empty()) return JsonSequenceEnd::kMalformed;
    if (!visit(value, line)) return JsonSequenceEnd::kStopped;
  }
  return JsonSequenceEnd::kWhole;
}

JsonSequenceEnd for_each_json_element(std::string_view text, const JsonValueVisitor& visit) {
  Cursor cursor(text);
  cursor.skip_white_space();
  if (cursor.at_end() || cursor.next() != '[') return JsonSequenceEnd::kMalformed;
  cursor.skip(1);
  cursor.skip_white_space();
  for (bool first = true; !cursor.at_end(); first = false) {
    if (cursor.next() == ']' && first) break;
    const int64_t line = cursor.line();
    const std::string_view value = cursor.take_value();
    if (value.empty()) return JsonSequenceEnd::kMalformed;
    if (!visit(value, line)) return JsonSequenceEnd::kStopped;
    cursor.skip_white_space();
    if (cursor.at_end() || cursor.next() != ',') break;
    cursor.skip(1);
    cursor.skip_white_space();
  }
  if (cursor.at_end() || cursor.next() != ']') return JsonSequenceEnd::kMalformed;
  cursor.skip(1);
  cursor.skip_white_space();
  return cursor.at_end() ? JsonSequenceEnd::kWhole : JsonSequenceEnd::kMalformed;
}

std::vector<JsonMember> json_members(std::string_view text) {
  Cursor cursor(text);
  // Passes one character, and white space around it; false where another stands there, or nothing follows.
  const auto pass = [&](char wanted) {
    cursor.skip_white_space();
    if (cursor.at_end() || cursor.next() != wanted) return false;
    cursor.skip(1);
    cursor.skip_white_space();
    return !cursor.at_end();
  };
  std::vector<JsonMember> members;
  if (!pass('{')) return {};
  do {
    if (cursor.next() != '"') return {};
    const std::string_view name = cursor.take_value();
    if (name.empty() || !pass(':')) return {};
    const int64_t line = cursor.line();
    const bool is_word = std::string_view("{[\"").find(cursor.next()) == std::string_view::npos;
    const std::string_view value = is_word ? cursor.take_word() : cursor.take_value();
    if (value.empty()) return {};
    members.push_back({name.substr(1, name.size() - 2), value, line});
  } while (pass(','));
  if (cursor.at_end() || cursor.next() != '}') return {};
  cursor.skip(1);
  cursor.skip_white_space();
  return cursor.at_end() ? members : std::vector<JsonMember>();
}

}  // namespace deeptitan

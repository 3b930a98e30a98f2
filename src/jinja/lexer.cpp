#include "jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "core/utf8.h"
#include "jinja/unicode.h"

namespace deeptitan::jinja {
namespace {

bool is_ascii_digit(char c) {
  return c >= '0' && c <= '9';
}

// Line ends become \n, and one at the very end is dropped.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

// Reads the escapes of a string literal as Python's unicode-escape codec does after "backslashreplace".
class Unescaper {
 public:
  Unescaper(std::string_view text, int line) : text_(text), line_(line) {}

  std::string unescape() {
    std::string out;
    while (at_ < text_.size()) {
      if (text_[at_] != '\\') {
        out += text_[at_++];
      } else {
        ++at_;
        append_escape(out);
      }
    }
    return out;
  }

 private:
  void append_escape(std::string& out) {
    if (at_ == text_.size()) throw SyntaxFailure("\\ at end of string", line_);
    const char c = text_[at_++];
    constexpr std::string_view kLetters = "abfnrtv\\'\"";
    constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t letter = kLetters.find(c); letter != std::string_view::npos) {
      out += kMeanings[letter];
    } else if (c == '\n') {
      return;
    } else if (c == 'x') {
      append_hex(out, 2);
    } else if (c == 'u') {
      append_hex(out, 4);
    } else if (c == 'U') {
      append_hex(out, 8);
    } else if (c == 'N') {
      throw SyntaxFailure("character names (\\N{...}) are not supported in strings; write \\u and the number", line_);
    } else if (c >= '0' && c <= '7') {
      append_octal(out);
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      append_escaped_letter(out);
    } else {
      out += '\\';
      out += c;
    }
  }

  // jinja2 writes what is not ASCII as an escape first; a backslash before it then escapes that escape's backslash.
  void append_escaped_letter(std::string& out) {
    const Utf8Unit unit = read_utf8_unit(text_.substr(--at_));
    at_ += unit.length;
    const auto number = static_cast<uint32_t>(unit.code_point);
    out += number < 0x100     ? fmt::format("\\x{:02x}", number)
           : number < 0x10000 ? fmt::format("\\u{:04x}", number)
                              : fmt::format("\\U{:08x}", number);
  }

  void append_octal(std::string& out) {
    uint32_t value = 0;
    --at_;
    for (int i = 0; i < 3 && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '7'; ++i) {
      value = value * 8 + static_cast<uint32_t>(text_[at_++] - '0');
    }
    append_utf8(out, value);
  }

  void append_hex(std::string& out, size_t digits) {
    uint32_t value = 0;
    const char* begin = text_.data() + at_;
    const char* end = begin + std::min(digits, text_.size() - at_);
    const auto [stopped, error] = std::from_chars(begin, end, value, 16);
    if (error != std::errc() || stopped != begin + digits) {
      throw SyntaxFailure("truncated \\x, \\u or \\U escape in a string", line_);
    }
    if (value > 0x10FFFF) throw SyntaxFailure("illegal Unicode character", line_);
    if (value >= 0xD800 && value <= 0xDFFF) {
      throw SyntaxFailure("surrogates (\\ud800 to \\udfff) are not supported in strings; write the character itself",
                          line_);
    }
    at_ += digits;
    append_utf8(out, value);
  }

  std::string_view text_;
  int line_;
  size_t at_ = 0;
};

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)), rest_(source_) {}

  std::vector<Token> run() {
    try {
      while (!rest_.empty()) read_data();
    } catch (const SyntaxFailure& failure) {
      tokens_.push_back({TokenType::kError, failure.what(), failure.line});
    }
    tokens_.push_back({TokenType::kEnd, "", tokens_.empty() ? 1 : tokens_.back().line});
    return std::move(tokens_);
  }

 private:
  void add(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }

  void skip(size_t bytes) {
    if (bytes == 0) return;
    line_ += static_cast<int>(std::count(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(bytes), '\n'));
    line_starting_ = rest_[bytes - 1] == '\n';
    rest_.remove_prefix(bytes);
  }

  static size_t space_length(std::string_view text) { return text.size() - strip_left(text).size(); }

  // Length of `+%}`, `-%}` with the whitespace behind it, or `%}` with one line end behind it; 0 if none stands here.
  static size_t end_length(std::string_view text, std::string_view end, bool trims_newline) {
    if (text.starts_with('-') && text.substr(1).starts_with(end)) {
      return 1 + end.size() + space_length(text.substr(1 + end.size()));
    }
    if (trims_newline && text.starts_with('+') && text.substr(1).starts_with(end)) return 1 + end.size();
    if (!text.starts_with(end)) return 0;
    return end.size() + (trims_newline && text.substr(end.size()).starts_with('\n') ? 1 : 0);
  }

  // Length of a whole `{% word %}` tag at the start of `text`, or 0. Of the two only endraw takes a line end.
  static size_t tag_length(std::string_view text, std::string_view word) {
    if (!text.starts_with("{%")) return 0;
    size_t at = 2;
    if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
    at += space_length(text.substr(at));
    if (!text.substr(at).starts_with(word)) return 0;
    at += word.size();
    at += space_length(text.substr(at));
    const bool is_end = word == "endraw";
    if (!is_end && text.substr(at).starts_with('+')) return 0;
    if (!is_end && text.substr(at).starts_with("%}")) return at + 2;
    const size_t end = end_length(text.substr(at), "%}", true);
    return end == 0 ? 0 : at + end;
  }

  // Adds the text before a tag, without the whitespace that the tag takes.
  void add_data(std::string_view text, char sign, bool is_variable) {
    const size_t whole = text.size();
    std::string_view kept = text;
    if (sign == '-') {
      kept = strip_right(text);
    } else if (sign != '+' && !is_variable) {
      const size_t line_start = text.rfind('\n') + 1;  // 0 if there is no line end
      const std::string_view last_line = text.substr(line_start);
      if ((line_start > 0 || line_starting_) && strip_left(last_line).empty()) kept = text.substr(0, line_start);
    }
    if (!kept.empty()) add(TokenType::kData, std::string(kept));
    skip(whole);
  }

  void read_data() {
    size_t at = 0;
    while (true) {
      at = rest_.find('{', at);
      if (at == std::string_view::npos || at + 1 >= rest_.size()) {
        add(TokenType::kData, std::string(rest_));
        skip(rest_.size());
        return;
      }
      if (rest_[at + 1] == '%' || rest_[at + 1] == '{' || rest_[at + 1] == '#') break;
      ++at;
    }
    const char kind = rest_[at + 1];
    const char next = at + 2 < rest_.size() ? rest_[at + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    add_data(rest_.substr(0, at), sign, kind == '{');
    if (const size_t raw = tag_length(rest_, "raw"); raw > 0) {
      skip(raw);
      read_raw();
      return;
    }
    const size_t begin = sign == '\0' ? 2 : 3;
    if (kind == '#') {
      read_comment(begin);
    } else if (kind == '%') {
      add(TokenType::kBlockBegin, "{%");
      skip(begin);
      read_code("%}", TokenType::kBlockEnd);
    } else {
      add(TokenType::kVariableBegin, "{{");
      skip(begin);
      read_code("}}", TokenType::kVariableEnd);
    }
  }

  void read_comment(size_t begin) {
    const int line = line_;
    skip(begin);
    for (size_t at = rest_.find("#}"); at != std::string_view::npos; at = rest_.find("#}", at + 1)) {
      const size_t from = at > 0 && (rest_[at - 1] == '-' || rest_[at - 1] == '+') ? at - 1 : at;
      skip(from + end_length(rest_.substr(from), "#}", true));
      return;
    }
    throw SyntaxFailure("Missing end of comment tag", line);
  }

  void read_raw() {
    const int line = line_;
    for (size_t at = rest_.find("{%"); at != std::string_view::npos; at = rest_.find("{%", at + 1)) {
      if (tag_length(rest_.substr(at), "endraw") == 0) continue;
      const char next = rest_[at + 2];
      add_data(rest_.substr(0, at), next, false);
      skip(tag_length(rest_, "endraw"));
      return;
    }
    throw SyntaxFailure("Missing end of raw directive", line);
  }

  void read_code(std::string_view end, TokenType end_type) {
    std::string open;  // the closing brackets still expected
    while (!rest_.empty()) {
      const size_t length = open.empty() ? end_length(rest_, end, end_type == TokenType::kBlockEnd) : 0;
      if (length > 0) {
        add(end_type, std::string(end));
        skip(length);
        return;
      }
      read_token(open);
    }
  }

  void read_token(std::string& open) {
    if (const size_t space = space_length(rest_); space > 0) {
      skip(space);
    } else if (is_ascii_digit(rest_[0])) {
      read_number();
    } else if (const size_t name = name_length(); name > 0) {
      add(TokenType::kName, std::string(rest_.substr(0, name)));
      skip(name);
    } else if (rest_[0] == '\'' || rest_[0] == '"') {
      read_string();
    } else {
      read_operator(open);
    }
  }

  size_t name_length() const {
    size_t length = 0;
    while (length < rest_.size()) {
      const Utf8Unit unit = read_utf8_unit(rest_.substr(length));
      if (unit.code_point != '_' && !is_alphanumeric(unit.code_point)) break;
      length += unit.length;
    }
    return length;
  }

  // Digits with single underscores between them, from `at`.
  size_t digits_end(size_t at) const {
    const auto is_digit_at = [&](size_t i) { return i < rest_.size() && is_ascii_digit(rest_[i]); };
    if (!is_digit_at(at)) return at;
    while (is_digit_at(at) || (at < rest_.size() && rest_[at] == '_' && is_digit_at(at + 1))) ++at;
    return at;
  }

  void read_number() {
    const bool after_dot = rest_.data() != source_.data() && rest_.data()[-1] == '.';
    const size_t whole = digits_end(0);
    size_t end = whole;
    if (!after_dot) {
      if (end + 1 < rest_.size() && rest_[end] == '.' && is_ascii_digit(rest_[end + 1])) end = digits_end(end + 1);
      if (end < rest_.size() && (rest_[end] | 0x20) == 'e') {
        const size_t sign = end + 1 < rest_.size() && (rest_[end + 1] == '+' || rest_[end + 1] == '-') ? 1 : 0;
        const size_t exponent = digits_end(end + 1 + sign);
        if (exponent > end + 1 + sign) end = exponent;
      }
    }
    if (end > whole) {
      add_number(TokenType::kFloat, end);
    } else {
      add_number(TokenType::kInteger, integer_end(whole));
    }
  }

  // An integer that starts with 0 has a prefix, or only zeros.
  size_t integer_end(size_t whole) const {
    if (rest_[0] != '0') return whole;
    const char letter = rest_.size() > 1 ? static_cast<char>(rest_[1] | 0x20) : '\0';
    const std::string_view digits = letter == 'x'   ? "0123456789abcdefABCDEF"
                                    : letter == 'o' ? "01234567"
                                    : letter == 'b' ? "01"
                                                    : "";
    size_t end = 2;
    const auto accepted = [&](size_t i) { return i < rest_.size() && digits.find(rest_[i]) != std::string_view::npos; };
    while (!digits.empty() && (accepted(end) || (end < rest_.size() && rest_[end] == '_' && accepted(end + 1)))) ++end;
    if (end > 2) return end;
    end = 1;
    while (end < whole && (rest_[end] == '0' || (rest_[end] == '_' && rest_[end + 1] == '0'))) ++end;
    return end;
  }

  void add_number(TokenType type, size_t length) {
    std::string text(rest_.substr(0, length));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    add(type, std::move(text));
    skip(length);
  }

  void read_string() {
    const char quote = rest_[0];
    size_t end = 1;
    while (end < rest_.size() && rest_[end] != quote) end += rest_[end] == '\\' ? 2 : 1;
    if (end >= rest_.size())
      throw SyntaxFailure(fmt::format("unexpected char {}: the string has no end", quote), line_);
    add(TokenType::kString, Unescaper(rest_.substr(1, end - 1), line_).unescape());
    skip(end + 1);
  }

  void read_operator(std::string& open) {
    constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                             "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                             ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (std::string_view symbol : kOperators) {
      if (!rest_.starts_with(symbol)) continue;
      const char c = symbol[0];
      if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
      if (c == ')' || c == ']' || c == '}') {
        if (open.empty()) throw SyntaxFailure(fmt::format("unexpected '{}'", c), line_);
        if (open.back() != c) throw SyntaxFailure(fmt::format("unexpected '{}', expected '{}'", c, open.back()), line_);
        open.pop_back();
      }
      add(TokenType::kOperator, std::string(symbol));
      skip(symbol.size());
      return;
    }
    throw SyntaxFailure(fmt::format("unexpected char '{}'", rest_.substr(0, read_utf8_unit(rest_).length)), line_);
  }

  std::string source_;
  std::string_view rest_;  // what has not been read yet, inside source_
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace deeptitan::jinja

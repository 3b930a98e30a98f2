#include "config/toml_text.h"

#include <fmt/format.h>

#include "core/byte_order_mark.h"
#include "core/utf8.h"

namespace deeptitan {
namespace {

constexpr std::string_view kEndsAKey = "\n=,[]{}";
constexpr int kMostDots = 16;  // of one key; toml++ goes down into a table for each, and up again recursively

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {
    if (text_.starts_with(kByteOrderMark)) at_ = kByteOrderMark.size();
  }

  std::optional<TomlFault> run() {
    while (!fault_ && at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#') {
        while (!fault_ && at_ < text_.size() && text_[at_] != '\n') step();
      } else if (c == '"' || c == '\'') {
        skip_quoted(c);
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        const Utf8Unit unit = read_utf8_unit(text_.substr(at_));
        if (unit.kind != Utf8Unit::Kind::kValid) {
          step();
        } else {
          refuse(
              line_,
              fmt::format("'{}' (U+{:04X}) stands outside of quotation marks and comments, where TOML has ASCII alone",
                          text_.substr(at_, unit.length), static_cast<uint32_t>(unit.code_point)));
        }
      } else {
        if (kEndsAKey.find(c) != std::string_view::npos) dots_ = 0;
        if (c == '.' && ++dots_ > kMostDots) {
          refuse(line_, fmt::format("a key has more than {} dots", kMostDots));
        } else {
          step();
        }
      }
    }
    return std::move(fault_);
  }

 private:
  void refuse(int64_t line, std::string reason) { fault_ = TomlFault{line, std::move(reason)}; }

  // One character, whatever it is.
  void step() {
    const char c = text_[at_];
    if (c == '\n') ++line_;
    const Utf8Unit unit = read_utf8_unit(text_.substr(at_));
    if (unit.kind != Utf8Unit::Kind::kValid) {
      refuse(line_,
             fmt::format("the byte 0x{:02x} is no UTF-8; save the file as UTF-8", static_cast<unsigned char>(c)));
      return;
    }
    const bool ends_line = c == '\r' && text_.substr(at_, 2) == "\r\n";
    const bool control = (static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n' && !ends_line) || c == '\x7f';
    if (control) {
      refuse(line_, fmt::format("a control character (U+{:04X}), which TOML does not have; in a text write \\u{:04x}",
                                static_cast<unsigned char>(c), static_cast<unsigned char>(c)));
      return;
    }
    at_ += unit.length;
  }

  void skip_quoted(char quote) {
    const int64_t begun = line_;
    const std::string three(3, quote);
    const bool many_lines = text_.substr(at_).starts_with(three);
    at_ += many_lines ? 3 : 1;
    while (!fault_ && at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n' && !many_lines) break;
      if (c == '\\' && quote == '"') {
        step();
        if (at_ < text_.size() && text_[at_] != '\n') step();
        continue;
      }
      if (c == quote && !many_lines) {
        ++at_;
        return;
      }
      if (many_lines && text_.substr(at_).starts_with(three)) {
        // Up to two quotation marks may stand just before the three that end the text.
        at_ += 3;
        for (int more = 0; more < 2 && at_ < text_.size() && text_[at_] == quote; ++more) ++at_;
        return;
      }
      step();
    }
    if (!fault_)
      refuse(begun, fmt::format("a text begins with {} and does not end", many_lines ? three : std::string(1, quote)));
  }

  std::string_view text_;
  size_t at_ = 0;
  int64_t line_ = 1;
  int dots_ = 0;  // since the last of kEndsAKey
  std::optional<TomlFault> fault_;
};

}  // namespace

std::optional<TomlFault> find_toml_fault(std::string_view text) {
  return Scanner(text).run();
}

}  // namespace deeptitan

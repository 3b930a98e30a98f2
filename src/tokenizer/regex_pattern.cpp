#include "tokenizer/regex_pattern.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "core/shown_text.h"
#include "core/utf8.h"

namespace deeptitan {
namespace {

// Bounds on what a hostile file can make us build.
constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr size_t kMaxTranslatedBytes = 8 << 20;
constexpr uint32_t kMaxRepeat = 1000;
constexpr int kMaxClassDepth = 20;

CodePointSet single(char32_t c) {
  return CodePointSet({{c, c}});
}

CodePointSet intersection(const CodePointSet& a, const CodePointSet& b) {
  CodePointSet outside = a.complement();
  outside.add(b.complement());
  return outside.complement();
}

bool is_one_of(char c, std::string_view set) {
  return set.find(c) != std::string_view::npos;
}

struct Quantifier {
  uint32_t min = 1;
  uint32_t max = 1;
  bool greedy = true;
  std::string pcre2;
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : pattern_(pattern), rest_(pattern) {}

  RegexPattern parse() {
    DT_CHECK(pattern_.size() <= kMaxPatternBytes,
             "a regular expression of {} bytes is too long; at most {} are supported", pattern_.size(),
             kMaxPatternBytes);
    DT_CHECK(is_valid_utf8(pattern_), "the regular expression is not valid UTF-8");
    while (!rest_.empty()) parse_piece();
    DT_CHECK(depth_ == 0, "regular expression {}: a group is not closed by )", shown(pattern_));
    finish_alternative();
    RegexPattern result;
    result.pcre2 = std::move(pcre2_);
    if (only_runs_) result.runs = std::move(alternatives_);
    return result;
  }

 private:
  [[noreturn]] void unsupported(std::string_view construct) const {
    fail("regular expression {}: {} is not supported; use classes, quantifiers, groups, lookaround, ^ and $",
         shown(pattern_), shown(construct));
  }

  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  char32_t take_code_point() {
    const Utf8Unit unit = read_utf8_unit(rest_);
    rest_.remove_prefix(unit.length);
    return unit.code_point;
  }

  void parse_piece() {
    if (take("|")) {
      emit("|");
      if (depth_ == 0) finish_alternative();
      return;
    }
    if (rest_.front() == '(') {
      parse_group_start();
      return;
    }
    if (rest_.front() == ')') {
      DT_CHECK(depth_ > 0, "regular expression {}: ) without (", shown(pattern_));
      rest_.remove_prefix(1);
      if (lookaround_depth_ == depth_) lookaround_depth_ = 0;
      --depth_;
      emit(")");
      emit(take_quantifier().pcre2);
      return;
    }
    if (take("^")) {
      emit("^");
      only_runs_ = false;
      return;
    }
    if (take("$")) {
      emit("$");
      end_alternative(RunAlternative::End::kLineEnd, {});
      return;
    }
    const CodePointSet set = take_atom();
    const Quantifier quantifier = take_quantifier();
    emit_set(set);
    emit(quantifier.pcre2);
    if (ended_ || !quantifier.greedy) only_runs_ = false;
    if (only_runs_) current_.items.push_back({set, quantifier.min, quantifier.max});
  }

  void parse_group_start() {
    // (?!X) that ends an alternative is a condition on its end; every other group leaves the form of runs.
    const std::string_view before = rest_;
    if (only_runs_ && depth_ == 0 && take("(?!") && !rest_.empty() && !is_one_of(rest_.front(), "(^$|)")) {
      const CodePointSet set = take_atom();
      if (take(")") && (rest_.empty() || rest_.front() == '|')) {
        emit("(?!");
        emit_set(set);
        emit(")");
        end_alternative(RunAlternative::End::kNotBefore, set);
        return;
      }
    }
    rest_ = before;
    only_runs_ = false;
    ++depth_;
    for (const std::string_view kind : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (take(kind)) {
        const bool looks_around = kind == "(?=" || kind == "(?!" || kind == "(?<=" || kind == "(?<!";
        if (looks_around && lookaround_depth_ == 0) lookaround_depth_ = depth_;
        emit(kind);
        return;
      }
    }
    if (rest_.starts_with("(?")) unsupported(rest_.substr(0, 3));
    take("(");
    emit("(?:");  // captures are never read
  }

  void end_alternative(RunAlternative::End end, const CodePointSet& set) {
    if (depth_ > 0 || ended_) {
      only_runs_ = false;
      return;
    }
    ended_ = true;
    current_.end = end;
    current_.end_set = set;
  }

  void finish_alternative() {
    const bool can_be_empty =
        std::all_of(current_.items.begin(), current_.items.end(), [](const RunItem& item) { return item.min == 0; });
    if (can_be_empty) only_runs_ = false;
    alternatives_.push_back(std::move(current_));
    current_ = {};
    ended_ = false;
  }

  CodePointSet take_atom() {
    const char c = rest_.front();
    if (c == '[') return take_class();
    if (c == '\\') return take_escape(false);
    if (is_one_of(c, "*+?{")) unsupported(std::string("the quantifier ") + c + " without something to repeat");
    if (take(".")) return single('\n').complement();
    return single(take_code_point());
  }

  // An escape that stands for a class or one character, in a class or outside.
  CodePointSet take_escape(bool in_class) {
    const std::string_view start = rest_;
    rest_.remove_prefix(1);
    DT_CHECK(!rest_.empty(), "regular expression {}: it ends with a backslash", shown(pattern_));
    const char c = rest_.front();
    if (static_cast<unsigned char>(c) >= 0x80) return single(take_code_point());
    rest_.remove_prefix(1);
    switch (c) {
      case 's':
        return unicode_white_space();
      case 'S':
        return unicode_white_space().complement();
      case 'd':
        return unicode_category("Nd");
      case 'D':
        return unicode_category("Nd").complement();
      case 'p':
      case 'P':
        return take_property(c == 'P');
      case 'n':
        return single('\n');
      case 'r':
        return single('\r');
      case 't':
        return single('\t');
      case 'f':
        return single('\f');
      case 'v':
        return single('\v');
      case 'a':
        return single('\a');
      case 'e':
        return single(0x1B);
      case 'u':
        return single(take_hex(4, 4));
      case 'x': {
        if (!take("{")) return single(take_hex(1, 2));
        const char32_t value = take_hex(1, 6);
        DT_CHECK(take("}"), "regular expression {}: \\x{{ is not closed by }}", shown(pattern_));
        return single(value);
      }
      default:
        break;
    }
    const bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (alphanumeric || (in_class && c == '&')) unsupported(start.substr(0, 2));
    return single(static_cast<char32_t>(c));
  }

  CodePointSet take_property(bool negated) {
    DT_CHECK(take("{"), "regular expression {}: \\p must be followed by a category or a script in braces",
             shown(pattern_));
    if (take("^")) negated = !negated;
    const size_t close = rest_.find('}');
    DT_CHECK(close != std::string_view::npos, "regular expression {}: \\p{{ is not closed by }}", shown(pattern_));
    const CodePointSet& set = unicode_property(rest_.substr(0, close));
    rest_.remove_prefix(close + 1);
    return negated ? set.complement() : set;
  }

  char32_t take_hex(size_t at_least, size_t at_most) {
    uint32_t value = 0;
    const char* end = rest_.data() + std::min(at_most, rest_.size());
    const auto [stop, error] = std::from_chars(rest_.data(), end, value, 16);
    const auto digits = static_cast<size_t>(stop - rest_.data());
    DT_CHECK(error == std::errc() && digits >= at_least && value <= 0x10FFFF && !(value >= 0xD800 && value < 0xE000),
             "regular expression {}: a hexadecimal escape is not that of a character", shown(pattern_));
    rest_.remove_prefix(digits);
    return value;
  }

  // [...]: a union of characters, ranges, escapes and classes, or the intersection of several such unions (&&).
  CodePointSet take_class() {
    DT_CHECK(++class_depth_ <= kMaxClassDepth, "regular expression {}: classes are nested more than {} deep",
             shown(pattern_), kMaxClassDepth);
    take("[");
    if (rest_.starts_with(":")) unsupported("a POSIX bracket [: :]");
    const bool negated = take("^");
    std::optional<CodePointSet> result;
    bool more = true;
    while (more) {
      const CodePointSet part = take_union();
      result = result ? intersection(*result, part) : part;
      more = take("&&");
      if (!more) take("]");
    }
    --class_depth_;
    return negated ? result->complement() : *result;
  }

  // Up to && or the closing bracket, which stay.
  CodePointSet take_union() {
    std::vector<CodePointSet::Range> ranges;
    const auto add = [&](const CodePointSet& set) {
      ranges.insert(ranges.end(), set.ranges().begin(), set.ranges().end());
      DT_CHECK(ranges.size() * 8 <= kMaxTranslatedBytes, "regular expression {}: a class is too large",
               shown(pattern_));
    };
    bool first = true;
    while (!rest_.starts_with("]") && !rest_.starts_with("&&")) {
      DT_CHECK(!rest_.empty(), "regular expression {}: a class is not closed by ]", shown(pattern_));
      const bool before_end = rest_.starts_with("-]") || rest_.starts_with("-&&");
      if (rest_.front() == '-' && !first && !before_end) unsupported("an unescaped - between classes");
      first = false;
      if (rest_.front() == '[') {
        add(take_class());
        continue;
      }
      const CodePointSet low = rest_.front() == '\\' ? take_escape(true) : single(take_code_point());
      const bool is_range = rest_.size() >= 2 && rest_[0] == '-' && rest_[1] != ']' && !rest_.starts_with("-&&");
      if (!is_range) {
        add(low);
        continue;
      }
      take("-");
      if (rest_.front() == '[') unsupported("an unescaped - between classes");
      const CodePointSet high = rest_.front() == '\\' ? take_escape(true) : single(take_code_point());
      const bool ends_are_characters = low.ranges().size() == 1 && high.ranges().size() == 1 &&
                                       low.ranges()[0].first == low.ranges()[0].last &&
                                       high.ranges()[0].first == high.ranges()[0].last;
      DT_CHECK(ends_are_characters && low.ranges()[0].first <= high.ranges()[0].first,
               "regular expression {}: a range in a class must go from a character to one that is not before it",
               shown(pattern_));
      ranges.push_back({low.ranges()[0].first, high.ranges()[0].first});
    }
    if (first) unsupported("an empty class");
    return CodePointSet(std::move(ranges));
  }

  Quantifier take_quantifier() {
    Quantifier quantifier;
    bool braces = false;
    if (rest_.starts_with("*") || rest_.starts_with("+")) check_bounded();
    if (take("*")) {
      quantifier = {0, RunItem::kUnbounded, true, "*"};
    } else if (take("+")) {
      quantifier = {1, RunItem::kUnbounded, true, "+"};
    } else if (take("?")) {
      quantifier = {0, 1, true, "?"};
    } else if (rest_.starts_with("{")) {
      braces = true;
      quantifier = take_braces();
    } else {
      return quantifier;
    }
    if (!rest_.empty() && is_one_of(rest_.front(), "?+")) {
      if (braces) unsupported("? or + after a {n,m} quantifier");
      quantifier.greedy = false;
      quantifier.pcre2 += rest_.front();
      rest_.remove_prefix(1);
    }
    if (!rest_.empty() && is_one_of(rest_.front(), "*+?{")) unsupported("a quantifier after a quantifier");
    return quantifier;
  }

  // A lookaround that may read to the end of the text, from every place, takes time that grows with its square.
  void check_bounded() const {
    if (lookaround_depth_ > 0) unsupported("a lookaround of unbounded length");
  }

  Quantifier take_braces() {
    const size_t close = rest_.find('}');
    if (close == std::string_view::npos) unsupported("{ without }");
    const std::string_view inside = rest_.substr(1, close - 1);
    const size_t comma = inside.find(',');
    const auto number = [&](std::string_view digits) {
      uint32_t value = 0;
      const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (error != std::errc() || stop != digits.data() + digits.size()) unsupported(rest_.substr(0, close + 1));
      DT_CHECK(value <= kMaxRepeat, "regular expression {}: {} repetitions are too many; at most {} are supported",
               shown(pattern_), value, kMaxRepeat);
      return value;
    };
    Quantifier quantifier;
    if (comma == std::string_view::npos) {
      quantifier.min = quantifier.max = number(inside);
    } else {
      const std::string_view low = inside.substr(0, comma), high = inside.substr(comma + 1);
      if (low.empty() && high.empty()) unsupported("{,}");
      quantifier.min = low.empty() ? 0 : number(low);
      quantifier.max = high.empty() ? RunItem::kUnbounded : number(high);
      DT_CHECK(quantifier.min <= quantifier.max, "regular expression {}: {{{}}} counts down", shown(pattern_), inside);
    }
    if (quantifier.max == RunItem::kUnbounded) check_bounded();
    const std::string upper = quantifier.max == RunItem::kUnbounded ? "" : std::to_string(quantifier.max);
    quantifier.pcre2 = fmt::format("{{{},{}}}", quantifier.min, upper);
    rest_.remove_prefix(close + 1);
    return quantifier;
  }

  void emit(std::string_view text) {
    pcre2_ += text;
    DT_CHECK(pcre2_.size() <= kMaxTranslatedBytes, "regular expression {}: its classes are too large", shown(pattern_));
  }

  void emit_set(const CodePointSet& set) {
    std::string text = "[";
    for (CodePointSet::Range range : set.ranges()) {
      // Surrogates never occur in UTF-8, and PCRE2 refuses them as the end of a range.
      if (range.first >= 0xD800 && range.first < 0xE000) range.first = 0xE000;
      if (range.last >= 0xD800 && range.last < 0xE000) range.last = 0xD7FF;
      if (range.first > range.last) continue;
      text +=
          fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<uint32_t>(range.first), static_cast<uint32_t>(range.last));
    }
    emit(text.size() == 1 ? "(?!)" : text + "]");
  }

  std::string_view pattern_;
  std::string_view rest_;
  int depth_ = 0;
  int class_depth_ = 0;
  int lookaround_depth_ = 0;  // depth_ inside the outermost lookaround; 0 outside of any
  std::string pcre2_;
  bool only_runs_ = true;
  bool ended_ = false;  // the current alternative already has its condition
  RunAlternative current_;
  std::vector<RunAlternative> alternatives_;
};

}  // namespace

RegexPattern parse_regex(std::string_view pattern) {
  return Parser(pattern).parse();
}

RegexPattern literal_pattern(std::string_view text) {
  DT_CHECK(!text.empty() && is_valid_utf8(text), "a Split pattern must be a non-empty string of valid UTF-8");
  std::string escaped;
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8_unit(text);
    escaped += fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(unit.code_point));
    text.remove_prefix(unit.length);
  }
  return parse_regex(escaped);
}

}  // namespace deeptitan

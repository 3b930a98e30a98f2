#include "tokenizer/code_point_set.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include <utf8proc.h>

#include "core/error.h"
#include "core/shown_text.h"
#include "core/utf8.h"
#include "tokenizer/pcre2_regex.h"
#include "tokenizer/unicode_additions.h"

namespace deeptitan {
namespace {

constexpr char32_t kLastCodePoint = 0x10FFFF;

std::map<std::string, CodePointSet, std::less<>> build_categories() {
  const auto name_of = [](char32_t c) -> std::string_view {
    return utf8proc_category_string(static_cast<utf8proc_int32_t>(c));
  };
  std::map<std::string, std::vector<CodePointSet::Range>, std::less<>> ranges;
  auto addition = kUnicodeAdditions.begin();
  char32_t run_start = 0;
  std::string_view run_name;
  for (char32_t c = 0; c <= kLastCodePoint + 1; ++c) {
    std::string_view name;
    if (c <= kLastCodePoint) {
      while (addition != kUnicodeAdditions.end() && addition->last < c) ++addition;
      const bool added = addition != kUnicodeAdditions.end() && addition->first <= c;
      name = added ? std::string_view(addition->category) : name_of(c);
    }
    if (name == run_name) continue;
    if (!run_name.empty()) {
      ranges[std::string(run_name)].push_back({run_start, c - 1});
      ranges[std::string(run_name.substr(0, 1))].push_back({run_start, c - 1});
    }
    run_start = c;
    run_name = name;
  }
  std::map<std::string, CodePointSet, std::less<>> categories;
  for (auto& [name, list] : ranges) categories.emplace(name, CodePointSet(std::move(list)));
  return categories;
}

}  // namespace

CodePointSet::CodePointSet(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
  normalize();
}

void CodePointSet::add(char32_t first, char32_t last) {
  ranges_.push_back({first, last});
  normalize();
}

void CodePointSet::add(const CodePointSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  normalize();
}

void CodePointSet::normalize() {
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  size_t kept = 0;
  for (const Range& range : ranges_) {
    if (kept > 0 && range.first <= ranges_[kept - 1].last + 1) {
      ranges_[kept - 1].last = std::max(ranges_[kept - 1].last, range.last);
    } else {
      ranges_[kept++] = range;
    }
  }
  ranges_.resize(kept);
}

CodePointSet CodePointSet::complement() const {
  CodePointSet result;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) result.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) result.ranges_.push_back({next, kLastCodePoint});
  return result;
}

bool CodePointSet::contains(char32_t code_point) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), code_point,
                                      [](char32_t c, const Range& range) { return c < range.first; });
  return after != ranges_.begin() && code_point <= std::prev(after)->last;
}

namespace {

const std::map<std::string, CodePointSet, std::less<>>& all_categories() {
  static const auto categories = build_categories();
  return categories;
}

// Every code point that PCRE2's property matches. A long name begins with a capital letter; short ones (Latn) are left
// to those who write them.
CodePointSet build_script(const std::string& name) {
  const Pcre2Regex regex("\\p{sc:" + name + "}");
  Pcre2Scratch scratch;
  std::vector<CodePointSet::Range> ranges;
  for (char32_t c = 0; c <= kLastCodePoint; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    if (regex.find(text, 0, scratch).first != 0) continue;
    if (!ranges.empty() && ranges.back().last + 1 == c) {
      ranges.back().last = c;
    } else {
      ranges.push_back({c, c});
    }
  }
  CodePointSet script(std::move(ranges));
  if (name == "Han") {
    // Of Unicode 15 to 16 (Scripts.txt), which the library may not know yet.
    for (const auto& [first, last] :
         {std::pair<char32_t, char32_t>{0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF}}) {
      script.add(first, last);
    }
  }
  return script;
}

}  // namespace

const CodePointSet& unicode_property(std::string_view name) {
  if (all_categories().contains(name)) return unicode_category(name);
  static std::mutex mutex;
  static std::map<std::string, CodePointSet, std::less<>> scripts;
  const std::lock_guard lock(mutex);
  const auto found = scripts.find(name);
  if (found != scripts.end()) return found->second;
  const bool is_name = name.size() > 2 && name.size() < 40 && name[0] >= 'A' && name[0] <= 'Z' &&
                       std::all_of(name.begin(), name.end(),
                                   [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; });
  const auto unknown = [&] {
    fail(
        "\\p{{{}}} is neither a general category nor a script; use one such as L, Lu, N, P, S, M, Z, Han, or rewrite "
        "the pattern",
        shown(name));
  };
  if (!is_name) unknown();
  try {
    return scripts.emplace(std::string(name), build_script(std::string(name))).first->second;
  } catch (const Error&) {
    unknown();
  }
  return unicode_category(name);
}

const CodePointSet& unicode_category(std::string_view name) {
  const auto& categories = all_categories();
  const auto found = categories.find(name);
  DT_CHECK(found != categories.end(),
           "\\p{{{}}} is not a general category; use one such as L, Lu, N, P, S, M, Z, or rewrite the pattern", name);
  return found->second;
}

const CodePointSet& unicode_white_space() {
  static const CodePointSet set({{0x09, 0x0D},
                                 {0x20, 0x20},
                                 {0x85, 0x85},
                                 {0xA0, 0xA0},
                                 {0x1680, 0x1680},
                                 {0x2000, 0x200A},
                                 {0x2028, 0x2029},
                                 {0x202F, 0x202F},
                                 {0x205F, 0x205F},
                                 {0x3000, 0x3000}});
  return set;
}

const CodePointSet& unicode_numeric() {
  static const CodePointSet set = [] {
    CodePointSet numeric = unicode_category("N");
    numeric.add(0x11DE0, 0x11DE9);  // Tolong Siki digits and Chinese small numbers came with Unicode 17
    numeric.add(0x16FF4, 0x16FF6);
    return numeric;
  }();
  return set;
}

const CodePointSet& unicode_word() {
  static const CodePointSet set = [] {
    CodePointSet word;
    for (const char* category : {"L", "M", "Nd", "Nl", "Pc"}) word.add(unicode_category(category));
    word.add(0x200C, 0x200D);
    // Alphabetic symbols: circled, squared and negative letters.
    word.add(0x24B6, 0x24E9);
    word.add(0x1F130, 0x1F149);
    word.add(0x1F150, 0x1F169);
    word.add(0x1F170, 0x1F189);
    return word;
  }();
  return set;
}

}  // namespace deeptitan

#include "tokenizer/normalizer.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include <utf8proc.h>

#include "core/error.h"
#include "core/utf8.h"
#include "tokenizer/code_point_set.h"
#include "tokenizer/unicode_additions.h"

namespace deeptitan {
namespace {

const CodePointSet& unknown_code_points() {
  static const CodePointSet set = [] {
    std::vector<CodePointSet::Range> ranges;
    ranges.reserve(kUnknownToNfc.size() + kUnicodeAdditions.size());
    for (const CodePointRange& range : kUnknownToNfc) ranges.push_back({range.first, range.last});
    for (const UnicodeAddition& addition : kUnicodeAdditions) ranges.push_back({addition.first, addition.last});
    return CodePointSet(std::move(ranges));
  }();
  return set;
}

void append_composed(std::string_view text, std::string& result) {
  if (text.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &mapped, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
  DT_CHECK(size >= 0, "the text could not be normalised: {}", utf8proc_errmsg(size));
  result.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  // Everything below U+0300 (lead bytes below CC) is in form C and composes with nothing before it.
  const bool is_plain =
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
  if (is_plain) return std::string(text);
  std::string result;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = read_utf8_unit(text.substr(at));
    // What is unknown takes part in nothing, and nothing composes or is reordered across it.
    if (unknown_code_points().contains(unit.code_point)) {
      append_composed(text.substr(begin, at - begin), result);
      result += text.substr(at, unit.length);
      begin = at + unit.length;
    }
    at += unit.length;
  }
  append_composed(text.substr(begin), result);
  return result;
}

}  // namespace deeptitan

#include "generate/token_pair.h"

#include <algorithm>

#include "core/error.h"
#include "core/utf8.h"
#include "generate/encode_prompt.h"
#include "generate/text_generator.h"

namespace deeptitan {
namespace {

// str.isspace() of CPython 3 (Objects/unicodetype_db.h, _PyUnicode_IsWhitespace).
bool is_python_space(char32_t c) {
  return (0x09 <= c && c <= 0x0D) || (0x1C <= c && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (0x2000 <= c && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace

size_t length_without_trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0u) == 0x80) --begin;
    const Utf8Unit unit = read_utf8_unit(text.substr(begin, end - begin));
    const bool whole = unit.kind == Utf8Unit::Kind::kValid && unit.length == end - begin;
    if (!whole || !is_python_space(unit.code_point)) break;
    end = begin;
  }
  return end;
}

TokenPair encode_pair(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation,
                      std::string_view where) {
  DT_CHECK_USAGE(!continuation.empty(), "{}: the continuation is empty", where);
  const size_t end = length_without_trailing_space(context);
  const std::string followed = std::string(context.substr(end)) + std::string(continuation);
  context = context.substr(0, end);
  TokenPair pair{encode_prompt(tokenizer, context), {}};
  if (context.empty()) {
    pair.continuation = tokenizer.encode(followed, {.add_special_tokens = false});
    return pair;
  }
  const std::vector<int32_t> whole = encode_prompt(tokenizer, std::string(context) + followed);
  const auto cut = static_cast<int64_t>(std::min(pair.context.size(), whole.size() - 1));
  pair.context.assign(whole.begin(), whole.begin() + cut);
  pair.continuation.assign(whole.begin() + cut, whole.end());
  return pair;
}

}  // namespace deeptitan

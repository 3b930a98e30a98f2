// A regular expression, then (after a NUL) a text. The matcher of runs must cut the text where PCRE2 does.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"
#include "tokenizer/pre_tokenizer.h"

namespace {

using deeptitan::PreTokenizer;

std::vector<PreTokenizer::Piece> split(const deeptitan::RegexPattern& pattern, PreTokenizer::Engine engine,
                                       std::string_view text) {
  PreTokenizer::Scratch scratch;
  std::vector<PreTokenizer::Piece> pieces;
  PreTokenizer({pattern}, engine).split(text, scratch, pieces);
  return pieces;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), input.size());
  const std::string text = deeptitan::utf8_sanitize(input.substr(end)).text + " ab\n\u00e9 \u4e2d\u6587 12\n";
  try {
    const deeptitan::RegexPattern pattern = deeptitan::parse_regex(input.substr(0, end));
    const std::vector<PreTokenizer::Piece> runs = split(pattern, PreTokenizer::Engine::kFastest, text);
    if (runs.empty() || runs.back().end != text.size()) std::abort();
    if (runs != split(pattern, PreTokenizer::Engine::kPcre2, text)) std::abort();
  } catch (const deeptitan::Error&) {
  }
  return 0;
}

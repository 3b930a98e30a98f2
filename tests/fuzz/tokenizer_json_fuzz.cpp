// A tokenizer.json, then (after a NUL) a tokenizer_config.json, then (after another) a text. Whatever they hold,
// loading throws Error or succeeds; then encoding gives ids that decode, streamed as at once.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "tokenizer/tokenizer.h"

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

std::string take_until_nul(std::string_view& rest) {
  const size_t end = std::min(rest.find('\0'), rest.size());
  std::string part(rest.substr(0, end));
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return part;
}

void check_streaming(std::string_view bytes) {
  deeptitan::Utf8Stream stream;
  std::string joined;
  for (size_t at = 0, step = 1; at < bytes.size(); at += step, step = step % 5 + 1) {
    const std::string piece = stream.push(bytes.substr(at, step));
    expect(deeptitan::is_valid_utf8(piece));
    joined += piece;
  }
  joined += stream.flush();
  expect(joined == deeptitan::utf8_sanitize(bytes).text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  check_streaming(rest);
  const std::string json = take_until_nul(rest), config = take_until_nul(rest);
  const std::string text = std::string(rest) + " the cat\u00e9 123 \u4e2d\u6587  \n<x> " + json.substr(0, 4096);
  try {
    const auto tokenizer = deeptitan::Tokenizer::from_json(json, config);
    for (const bool special : {false, true}) {
      const std::vector<int32_t> ids = tokenizer.encode(text, {special, special});
      deeptitan::StreamingDecoder decoder(tokenizer, false);
      std::string streamed;
      for (const int32_t id : ids) streamed += decoder.push(id);
      streamed += decoder.flush();
      expect(streamed == tokenizer.decode(ids));
    }
  } catch (const deeptitan::Error&) {
  }
  return 0;
}

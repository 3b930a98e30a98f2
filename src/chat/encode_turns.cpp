#include <algorithm>
#include <utility>
#include <vector>

#include "chat/chat_template.h"

namespace deeptitan {
namespace {

// Puts the tokenizer's own prefix (bos) before ids that do not start with it; how many were put there.
size_t ensure_prefix(const Tokenizer& tokenizer, std::vector<int32_t>& ids) {
  const std::vector<int32_t>& prefix = tokenizer.prefix_ids();
  if (ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin())) return 0;
  ids.insert(ids.begin(), prefix.begin(), prefix.end());
  return prefix.size();
}

constexpr EncodeOptions kAsWritten = {.add_special_tokens = false, .parse_special_tokens = true};

// The spans, none of which cuts an added token where it may have been placed inside one: a turn starts before the token
// in which it parts from the prompt, and ends behind the one in which the endings part.
std::vector<TextSpan> whole_tokens(const Tokenizer& tokenizer, const RenderedTurns& turns) {
  std::vector<TextSpan> spans = turns.assistant;
  const bool any =
      std::any_of(spans.begin(), spans.end(), [](const TextSpan& s) { return s.begin_may_cut || s.end_may_cut; });
  if (!any) return spans;
  const std::vector<std::pair<size_t, size_t>> tokens = tokenizer.added_token_places(turns.text);
  const auto around = [&](size_t place) -> std::pair<size_t, size_t> {
    const auto after = std::upper_bound(tokens.begin(), tokens.end(), place,
                                        [](size_t at, const auto& token) { return at < token.first; });
    if (after == tokens.begin() || std::prev(after)->second <= place) return {place, place};
    return *std::prev(after);
  };
  size_t done = 0;
  for (TextSpan& span : spans) {
    if (span.begin_may_cut) span.begin = std::max(around(span.begin).first, done);
    if (span.end_may_cut) {
      const auto [first, last] = around(span.end);
      if (first < span.end) span.end = last;
    }
    span.end = std::max(span.end, span.begin);
    done = span.end;
  }
  return spans;
}

}  // namespace

std::vector<int32_t> encode_rendered(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text, kAsWritten);
  ensure_prefix(tokenizer, ids);
  return ids;
}

EncodedTurns encode_turns(const Tokenizer& tokenizer, const RenderedTurns& turns) {
  EncodedTurns encoded;
  const auto add = [&](size_t begin, size_t end, bool in_loss) {
    if (begin == end) return;
    const std::string_view part = std::string_view(turns.text).substr(begin, end - begin);
    const std::vector<int32_t> ids = tokenizer.encode(part, kAsWritten);
    encoded.ids.insert(encoded.ids.end(), ids.begin(), ids.end());
    encoded.in_loss.resize(encoded.ids.size(), in_loss);
  };
  size_t done = 0;
  for (const TextSpan& span : whole_tokens(tokenizer, turns)) {
    add(done, span.begin, false);
    add(span.begin, span.end, true);
    done = span.end;
  }
  add(done, turns.text.size(), false);
  encoded.in_loss.insert(encoded.in_loss.begin(), ensure_prefix(tokenizer, encoded.ids), false);
  return encoded;
}

}  // namespace deeptitan

#include "jinja/traced_text.h"

#include <algorithm>

namespace deeptitan::jinja {

void TracedText::append(const TracedText& text, size_t begin, size_t size) {
  const size_t end = begin + size;
  const size_t place = bytes_.size();
  for (const Origin& origin : text.origins_) {
    const size_t from = std::max(origin.begin, begin);
    const size_t to = std::min(origin.end, end);
    // Of a text with bytes, an empty range is left only where nothing but it is taken.
    if (from > to || (from == to && origin.begin != origin.end && size != 0)) continue;
    const size_t offset = origin.offset == Origin::kDerived ? Origin::kDerived : origin.offset + (from - origin.begin);
    const size_t at = place + (from - begin);
    if (!origins_.empty() && from != to) {
      Origin& last = origins_.back();
      const bool goes_on = origin.offset == Origin::kDerived
                               ? last.offset == Origin::kDerived
                               : last.offset != Origin::kDerived && last.offset + (last.end - last.begin) == offset;
      if (last.end == at && last.source == origin.source && goes_on) {
        last.end = at + (to - from);
        continue;
      }
    }
    origins_.push_back({at, at + (to - from), origin.source, offset});
  }
  bytes_.append(text.bytes_, begin, size);
}

}  // namespace deeptitan::jinja

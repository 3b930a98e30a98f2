#include "tokenizer/run_matcher.h"

#include <algorithm>
#include <map>

#include "core/utf8.h"

namespace deeptitan {
namespace {

constexpr size_t kCodePoints = 0x110000;
constexpr size_t kMaxMembershipTests = 20'000'000;
constexpr size_t kMaxItems = 64;

bool always_matches(const RunAlternative& alternative, size_t from) {
  return alternative.end == RunAlternative::End::kAnywhere &&
         std::all_of(alternative.items.begin() + static_cast<ptrdiff_t>(from), alternative.items.end(),
                     [](const RunItem& item) { return item.min == 0; });
}

}  // namespace

std::optional<CodePointClasses> CodePointClasses::build(const std::vector<CodePointSet>& sets) {
  std::vector<char32_t> starts = {0};
  for (const CodePointSet& set : sets) {
    for (const CodePointSet::Range& range : set.ranges()) {
      starts.push_back(range.first);
      if (range.last + 1 < kCodePoints) starts.push_back(range.last + 1);
    }
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  if (starts.size() * std::max<size_t>(sets.size(), 1) > kMaxMembershipTests) return std::nullopt;

  // Between two neighbouring starts no set changes, so one code point speaks for all.
  CodePointClasses result;
  result.members_.resize(sets.size());
  std::map<std::vector<bool>, uint8_t> class_of_membership;
  std::vector<uint8_t> classes(kCodePoints);
  std::vector<bool> membership(sets.size());
  for (size_t i = 0; i < starts.size(); ++i) {
    for (size_t s = 0; s < sets.size(); ++s) membership[s] = sets[s].contains(starts[i]);
    const auto next = static_cast<uint8_t>(class_of_membership.size());
    const auto [found, is_new] = class_of_membership.try_emplace(membership, next);
    if (class_of_membership.size() > 256) return std::nullopt;
    if (is_new) {
      for (size_t s = 0; s < sets.size(); ++s) result.members_[s][next] = membership[s];
    }
    const size_t stop = i + 1 < starts.size() ? starts[i + 1] : kCodePoints;
    std::fill(classes.begin() + static_cast<ptrdiff_t>(starts[i]), classes.begin() + static_cast<ptrdiff_t>(stop),
              found->second);
  }

  std::map<std::array<uint8_t, 256>, uint16_t> page_numbers;
  for (size_t base = 0; base < kCodePoints; base += 256) {
    std::array<uint8_t, 256> page;
    std::copy_n(classes.begin() + static_cast<ptrdiff_t>(base), 256, page.begin());
    const auto [found, is_new] = page_numbers.try_emplace(page, static_cast<uint16_t>(page_numbers.size()));
    if (is_new) result.pages_.push_back(page);
    result.page_of_.push_back(found->second);
  }
  return result;
}

void CodePointClasses::classify(std::string_view text, std::vector<uint8_t>& classes) const {
  classes.resize(text.size());
  const std::array<uint8_t, 256>& ascii = pages_[page_of_[0]];
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80) {
      classes[i++] = ascii[byte];
      continue;
    }
    const Utf8Unit unit = read_utf8_unit(text.substr(i, 4));
    std::fill_n(classes.begin() + static_cast<ptrdiff_t>(i), unit.length, class_of(unit.code_point));
    i += unit.length;
  }
}

bool RunMatcher::supports(const std::vector<RunAlternative>& alternatives) {
  if (alternatives.size() > kMaxAlternatives) return false;
  for (const RunAlternative& alternative : alternatives) {
    if (alternative.items.size() > kMaxItems) return false;
    size_t choices = 0, unbounded_choices = 0;
    for (size_t i = 0; i < alternative.items.size(); ++i) {
      const RunItem& item = alternative.items[i];
      if (item.min == item.max || always_matches(alternative, i + 1)) continue;
      ++choices;
      if (item.max == RunItem::kUnbounded) ++unbounded_choices;
    }
    if (choices > 2 || unbounded_choices > 1) return false;
  }
  return true;
}

void RunMatcher::collect_sets(const std::vector<RunAlternative>& alternatives, std::vector<CodePointSet>& sets) {
  for (const RunAlternative& alternative : alternatives) {
    for (const RunItem& item : alternative.items) sets.push_back(item.set);
    sets.push_back(alternative.end_set);
  }
}

RunMatcher::RunMatcher(const std::vector<RunAlternative>& alternatives, const CodePointClasses& classes,
                       size_t first_set) {
  starts_.fill(0);
  size_t set = first_set;
  for (size_t a = 0; a < alternatives.size(); ++a) {
    const RunAlternative& source = alternatives[a];
    Alternative alternative;
    bool still_start = true;
    for (size_t i = 0; i < source.items.size(); ++i) {
      const RunItem& item = source.items[i];
      const std::array<bool, 256>& members = classes.members(set++);
      alternative.items.push_back({&members, item.min, item.max, always_matches(source, i + 1)});
      for (size_t c = 0; still_start && c < 256; ++c) {
        if (members[c]) starts_[c] |= uint32_t{1} << a;
      }
      if (item.min > 0) still_start = false;
    }
    alternative.end = source.end;
    alternative.end_members = &classes.members(set++);
    alternatives_.push_back(std::move(alternative));
  }
}

bool RunMatcher::end_holds(const Alternative& alternative, const Span& span, size_t at) const {
  switch (alternative.end) {
    case RunAlternative::End::kAnywhere:
      return true;
    case RunAlternative::End::kNotBefore:
      return at == span.end || !(*alternative.end_members)[span.classes[at]];
    case RunAlternative::End::kLineEnd:
      return at == span.end || span.text[at] == '\n';
  }
  return false;
}

size_t RunMatcher::match_items(const Alternative& alternative, size_t index, const Span& span, size_t at,
                               size_t& no_match_before) const {
  if (index == alternative.items.size()) return end_holds(alternative, span, at) ? at : kNoMatch;
  const Item& item = alternative.items[index];
  const std::array<bool, 256>& members = *item.members;

  if (item.max == 1) {
    if (at < span.end && members[span.classes[at]]) {
      const size_t stop =
          match_items(alternative, index + 1, span, at + character_length(span.text[at]), no_match_before);
      if (stop != kNoMatch) return stop;
    }
    return item.min == 0 ? match_items(alternative, index + 1, span, at, no_match_before) : kNoMatch;
  }

  // The longest run, then shorter ones, character by character. All bytes of a character have its class, so an
  // unbounded run can be found byte by byte; `least` is where the shortest permitted run ends.
  size_t run_end = at, least = item.min == 0 ? at : kNoMatch;
  if (item.max == RunItem::kUnbounded && item.min <= 1) {
    while (run_end < span.end && members[span.classes[run_end]]) ++run_end;
    if (item.min == 1 && run_end > at) least = at + character_length(span.text[at]);
  } else {
    for (uint32_t count = 0; count < item.max && run_end < span.end && members[span.classes[run_end]];) {
      run_end += character_length(span.text[run_end]);
      if (++count == item.min) least = run_end;
    }
  }
  if (least == kNoMatch) return kNoMatch;
  if (item.rest_always_matches) return match_items(alternative, index + 1, span, run_end, no_match_before);
  for (size_t stop_of_run = run_end;;) {
    const size_t stop = match_items(alternative, index + 1, span, stop_of_run, no_match_before);
    if (stop != kNoMatch) return stop;
    if (stop_of_run == least) break;
    do --stop_of_run;
    while ((static_cast<unsigned char>(span.text[stop_of_run]) & 0xC0) == 0x80);
  }
  // Every place where a run starting later in this one could end has been tried: without this, a long run of spaces
  // followed by a letter would take quadratic time under \s+$.
  if (index == 0 && item.max == RunItem::kUnbounded && item.min <= 1) no_match_before = run_end;
  return kNoMatch;
}

}  // namespace deeptitan

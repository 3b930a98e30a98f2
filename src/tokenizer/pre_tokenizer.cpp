#include "tokenizer/pre_tokenizer.h"

#include "core/error.h"

namespace deeptitan {
namespace {

constexpr size_t kMaxStages = 64;

size_t next_character(std::string_view text, size_t at) {
  do ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace

PreTokenizer::PreTokenizer(const std::vector<RegexPattern>& patterns, Engine engine) {
  DT_CHECK(patterns.size() <= kMaxStages, "the pre-tokenizer has {} splits; at most {} are supported", patterns.size(),
           kMaxStages);
  const auto is_run = [&](const RegexPattern& pattern) {
    return engine == Engine::kFastest && pattern.kept == RegexPattern::Kept::kAll && pattern.runs &&
           RunMatcher::supports(*pattern.runs);
  };
  std::vector<CodePointSet> sets;
  for (const RegexPattern& pattern : patterns) {
    if (is_run(pattern)) RunMatcher::collect_sets(*pattern.runs, sets);
  }
  if (std::optional<CodePointClasses> classes = CodePointClasses::build(sets)) {
    classes_ = std::make_unique<const CodePointClasses>(std::move(*classes));
  }
  size_t first_set = 0;
  for (const RegexPattern& pattern : patterns) {
    if (!classes_ || !is_run(pattern)) {
      stages_.emplace_back(Regex{Pcre2Regex(pattern.pcre2), pattern.kept});
      continue;
    }
    stages_.emplace_back(RunMatcher(*pattern.runs, *classes_, first_set));
    for (const RunAlternative& alternative : *pattern.runs) first_set += alternative.items.size() + 1;
  }
}

void PreTokenizer::split(std::string_view text, Scratch& scratch, std::vector<Piece>& pieces) const {
  if (text.empty()) return;
  if (classes_) classes_->classify(text, scratch.classes);
  split_stage(0, text, 0, text.size(), scratch, pieces);
}

void PreTokenizer::split_stage(size_t stage, std::string_view text, size_t begin, size_t end, Scratch& scratch,
                               std::vector<Piece>& pieces) const {
  if (stage == stages_.size()) {
    pieces.push_back({begin, end});
    return;
  }
  const auto piece = [&](size_t first, size_t last) { split_stage(stage + 1, text, first, last, scratch, pieces); };
  if (const auto* runs = std::get_if<RunMatcher>(&stages_[stage])) {
    runs->split(text, scratch.classes.data(), begin, end, piece);
    return;
  }
  const auto& [regex, kept] = std::get<Regex>(stages_[stage]);
  const bool keeps_matches = kept != RegexPattern::Kept::kGaps;
  const bool keeps_gaps = kept != RegexPattern::Kept::kMatches;
  if (!scratch.pcre2) scratch.pcre2 = std::make_unique<Pcre2Scratch>();
  const std::string_view part = text.substr(begin, end - begin);
  size_t unmatched = 0;
  for (size_t from = 0; from <= part.size();) {
    const auto [first, last] = regex.find(part, from, *scratch.pcre2);
    if (first == std::string_view::npos) break;
    if (keeps_gaps && unmatched < first) piece(begin + unmatched, begin + first);
    if (keeps_matches && first < last) piece(begin + first, begin + last);
    unmatched = last;
    from = last > first ? last : next_character(part, last);
  }
  if (keeps_gaps && unmatched < part.size()) piece(begin + unmatched, end);
}

}  // namespace deeptitan

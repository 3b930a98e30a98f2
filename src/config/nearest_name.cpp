#include "config/nearest_name.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

namespace deeptitan {

size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table are enough: a swap looks two rows back.
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    std::swap(before, above);
    std::swap(above, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

namespace {

/// Whether `word` is the first parts of `name`, which are joined by '_' or '-'.
bool is_beginning(std::string_view word, std::string_view name) {
  return !word.empty() && name.size() > word.size() && name.starts_with(word) &&
         (name[word.size()] == '_' || name[word.size()] == '-');
}

}  // namespace

std::string nearest_name(std::string_view wanted, std::span<const std::string> names) {
  const std::string* best = nullptr;
  size_t best_distance = 0;
  for (const std::string& name : names) {
    // Either word may be the beginning of the other, up to a part's end: prefix for prefix_token.
    const bool begins = is_beginning(wanted, name) || is_beginning(name, wanted);
    const size_t distance = begins ? 1 : edit_distance(wanted, name);
    // A slip changes few letters; more of them, and it is another word (--lr is not --help).
    if (!begins && 3 * distance > std::max(wanted.size(), name.size())) continue;
    if (best == nullptr || distance < best_distance) {
      best = &name;
      best_distance = distance;
    }
  }
  return best == nullptr ? std::string() : *best;
}

std::string did_you_mean(std::string_view wanted, std::span<const std::string> names) {
  const std::string name = nearest_name(wanted, names);
  return name.empty() ? std::string() : fmt::format("; did you mean '{}'?", name);
}

}  // namespace deeptitan

#pragma once

#include <span>
#include <string>
#include <string_view>

namespace deeptitan {

/// Number of insertions, deletions, replacements and swaps of neighbouring characters that turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b);

/// The one of `names` nearest to `wanted` by edit distance, or empty where all are too far off to be a slip of the hand
/// (more than a third of the longer of the two differs, and neither is the beginning of the other).
std::string nearest_name(std::string_view wanted, std::span<const std::string> names);

/// "; did you mean 'training.steps'?", or empty where no name is near.
std::string did_you_mean(std::string_view wanted, std::span<const std::string> names);

}  // namespace deeptitan

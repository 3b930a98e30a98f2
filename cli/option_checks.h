#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace CLI {
class Option;
}

namespace deeptitan {

/// Accepts whole numbers from `least` to `most`; --help shows `unit` (such as STEPS or TOKENS) as what the option
/// takes.
CLI::Option* whole_number(CLI::Option* option, const std::string& unit, int64_t least,
                          int64_t most = std::numeric_limits<int64_t>::max());

/// Accepts numbers from `least` (or, with kAbove, greater than it) to `most`.
enum class LowerBound { kFrom, kAbove };
CLI::Option* number_in(CLI::Option* option, double least, double most = std::numeric_limits<double>::infinity(),
                       LowerBound bound = LowerBound::kFrom);

/// Accepts one of `values`, an element type in any spelling that usual_dtype_word knows; the message for another names
/// the nearest. --help shows them all.
CLI::Option* one_of(CLI::Option* option, const std::vector<std::string>& values);

/// Accepts a path, or the name of a model in the hub's cache (OWNER/NAME or a short name): the option's text becomes
/// the directory.
CLI::Option* model_place(CLI::Option* option);

/// A word that choose_device knows.
CLI::Option* device_word(CLI::Option* option);

/// Accepts a number of bytes, at least 1, as 5000000000, 5GB or 4GiB.
CLI::Option* byte_count(CLI::Option* option);

}  // namespace deeptitan

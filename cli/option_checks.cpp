#include "option_checks.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "config/dtype_words.h"
#include "config/nearest_name.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "hub/cached_model.h"

namespace deeptitan {
namespace {

// CLI11 puts the option's name before what a check returns, and takes an empty text for success.
template <typename Check>
CLI::Option* with_check(CLI::Option* option, const std::string& takes, Check check) {
  option->type_name(takes);
  CLI::Validator validator("");
  validator.operation([check](std::string& input) { return check(input); });
  return option->check(validator);
}

// The text as a number, nothing left over.
template <typename Number>
bool parse_whole(const std::string& text, Number& value) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end;
}

// What was given, in a message.
std::string given(const std::string& input) {
  return input.empty() ? "an empty text" : input;
}

std::string range_text(const std::string& kind, const std::string& least, const std::string& most) {
  return most.empty() ? fmt::format("{} of at least {}", kind, least)
                      : fmt::format("{} from {} to {}", kind, least, most);
}

// Bytes of "4GiB" and the like; 0 where the text is no such number, or too large for 63 bits.
uint64_t parse_bytes(const std::string& text) {
  uint64_t count = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc()) return 0;
  std::string unit(rest, end);
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::tolower(c); });
  static const std::vector<std::string> kDecimal = {"b", "kb", "mb", "gb", "tb"},
                                        kBinary = {"", "kib", "mib", "gib", "tib"};
  double factor = 0;
  for (size_t i = 0; i < kDecimal.size(); ++i) {
    if (unit == kDecimal[i]) factor = std::pow(1000.0, static_cast<double>(i));
    if (unit == kBinary[i]) factor = std::pow(1024.0, static_cast<double>(i));
  }
  if (static_cast<double>(count) * factor >= 0x1p63) return 0;
  return count * static_cast<uint64_t>(factor);
}

}  // namespace

CLI::Option* whole_number(CLI::Option* option, const std::string& unit, int64_t least, int64_t most) {
  const bool open = most == std::numeric_limits<int64_t>::max();
  const std::string expected = range_text("a whole number", std::to_string(least), open ? "" : std::to_string(most));
  return with_check(option, unit, [=](const std::string& input) {
    int64_t value = 0;
    const bool valid = parse_whole(input, value) && value >= least && value <= most;
    return valid ? std::string() : fmt::format("expected {}, not {}", expected, given(input));
  });
}

CLI::Option* number_in(CLI::Option* option, double least, double most, LowerBound bound) {
  const bool above = bound == LowerBound::kAbove, open = std::isinf(most);
  const std::string low = fmt::format("{}", least), high = open ? "" : fmt::format("{}", most);
  const std::string expected = !above
                                   ? range_text("a number", low, high)
                                   : fmt::format("a number greater than {}{}", low, open ? "" : " and at most " + high);
  return with_check(option, "NUMBER", [=](const std::string& input) {
    double value = 0;
    const bool valid =
        parse_whole(input, value) && std::isfinite(value) && value <= most && (above ? value > least : value >= least);
    return valid ? std::string() : fmt::format("expected {}, not {}", expected, given(input));
  });
}

CLI::Option* one_of(CLI::Option* option, const std::vector<std::string>& values) {
  option->type_name(fmt::format("{}", fmt::join(values, "|")));
  CLI::Validator validator("");
  validator.operation([values](std::string& input) {
    if (std::find(values.begin(), values.end(), input) != values.end()) return std::string();
    const std::string canonical(usual_dtype_word(input));
    if (std::find(values.begin(), values.end(), canonical) != values.end()) {
      input = canonical;
      return std::string();
    }
    return fmt::format("expected one of {}, not {}{}", fmt::join(values, ", "), given(input),
                       did_you_mean(input, values));
  });
  return option->transform(validator);
}

CLI::Option* device_word(CLI::Option* option) {
  return with_check(option, "DEVICE", [](const std::string& input) {
    return is_device_word(input) ? std::string() : fmt::format("expected {}, not {}", kDeviceWords, given(input));
  });
}

CLI::Option* model_place(CLI::Option* option) {
  option->type_name("MODEL");
  CLI::Validator validator("");
  validator.operation([](std::string& input) {
    try {
      input = model_directory_of(input).string();
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  });
  return option->transform(validator);
}

CLI::Option* byte_count(CLI::Option* option) {
  option->type_name("BYTES");
  CLI::Validator validator("");
  validator.operation([](std::string& input) {
    const uint64_t bytes = parse_bytes(input);
    if (bytes == 0)
      return fmt::format("expected a number of bytes, such as 5000000000, 5GB or 4GiB, not {}", given(input));
    input = std::to_string(bytes);
    return std::string();
  });
  return option->transform(validator);
}

}  // namespace deeptitan

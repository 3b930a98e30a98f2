#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace deeptitan {

/// What went wrong, in the terms of the program's exit codes.
enum class ErrorKind {
  kUsage,    // the command line or the configuration: exit code 2
  kRuntime,  // a failure while running: exit code 1
};

/// Every error that library code throws. Only cli/ turns it into a line on stderr and an exit code.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ErrorKind kind = ErrorKind::kRuntime)
      : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Throws Error of kind kRuntime with a formatted message.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error of kind kUsage with a formatted message.
template <typename... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...), ErrorKind::kUsage);
}

}  // namespace deeptitan

/// Throws Error unless `condition` holds. The message says what was expected, what was found and what to do.
#define DT_CHECK(condition, ...)      \
  do {                                \
    if (!(condition)) [[unlikely]]    \
      ::deeptitan::fail(__VA_ARGS__); \
  } while (false)

/// As DT_CHECK, for what the user typed or configured (exit code 2).
#define DT_CHECK_USAGE(condition, ...)      \
  do {                                      \
    if (!(condition)) [[unlikely]]          \
      ::deeptitan::fail_usage(__VA_ARGS__); \
  } while (false)

#pragma once

#include <string_view>

namespace deeptitan {

/// Lines for the person at the terminal: they go to stderr, so that stdout carries results alone.
void log_info(std::string_view message);
void log_warning(std::string_view message);

/// Silences log_info (tests, --quiet).
void set_log_quiet(bool quiet);

}  // namespace deeptitan

#pragma once

#include <functional>
#include <string_view>

namespace deeptitan {

/// Lines for the person at the terminal: they go to stderr, so that stdout carries results alone.
void log_info(std::string_view message);
void log_warning(std::string_view message);

/// Called before each line while it is set, on the thread that logs: what stands unfinished on the terminal is cleared
/// away. An empty one ends it.
void set_before_log_line(std::function<void()> clear);

/// Silences log_info (tests, --quiet).
void set_log_quiet(bool quiet);

/// Silences log_warning too: of ranks that all have the same to say, the first says it.
void set_log_silent();

}  // namespace deeptitan

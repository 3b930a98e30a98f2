#pragma once

#include <string_view>

namespace deeptitan {

/// Writes a command's result to stdout. Throws Error where it cannot be written (a full disk, a closed pipe).
void write_output(std::string_view text);

/// Hands on what was written, so that a reader sees it now. Throws Error as write_output does.
void flush_output();

}  // namespace deeptitan

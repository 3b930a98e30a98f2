#pragma once

#include <string>

namespace deeptitan {

/// Whether standard input is a keyboard.
bool standard_input_is_terminal();

/// Whether bytes wait in standard input, a pipe or a file, that nothing has read. Never waits.
bool standard_input_holds_text();

/// All of standard input, to its end. Throws Error where it cannot be read.
std::string read_standard_input();

/// What a file holds; - is standard input. Throws Error where it cannot be read.
std::string read_file_or_input(const std::string& path);

}  // namespace deeptitan

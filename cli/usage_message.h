#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
class Error;
}  // namespace CLI

namespace deeptitan {

/// One line for a command line that could not be parsed: the command, what is wrong with it, the nearest thing that is
/// known, and where to read on.
std::string usage_message(const CLI::App& root, const CLI::Error& error);

/// What is left of `command`'s line once its own options are taken: --section.key value pairs for parse_overrides.
/// Throws a usage error for an option without a dot, with the command's nearest one.
std::vector<std::string> run_file_overrides(const CLI::App& command);

}  // namespace deeptitan

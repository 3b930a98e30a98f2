#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

inline constexpr int kMostThreads = 4096;

/// Adds --threads, which counts for all that the command does.
void add_threads_option(CLI::App& command);

}  // namespace deeptitan

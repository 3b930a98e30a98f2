#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds --threads, which counts for all that the command does.
void add_threads_option(CLI::App& command);

}  // namespace deeptitan

#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `generate --model DIR --prompt TEXT`: streams a continuation to stdout, and says how fast it went on stderr.
void add_generate_command(CLI::App& app);

}  // namespace deeptitan

#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `plan CONFIG.toml [--memory BYTES]`: the memory of a run before anything is allocated.
void add_plan_command(CLI::App& app);

}  // namespace deeptitan

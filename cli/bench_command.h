#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `bench train CONFIG.toml`: speed against what this machine can do, measured in the same run.
void add_bench_command(CLI::App& app);

}  // namespace deeptitan

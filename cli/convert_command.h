#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `convert IN OUT --dtype bf16|fp32|fp8 [--max-shard-size BYTES]`: rewrites a model directory.
void add_convert_command(CLI::App& app);

}  // namespace deeptitan

#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `train CONFIG.toml [--section.key value ...]`: trains a model as a run file describes it.
void add_train_command(CLI::App& app);

}  // namespace deeptitan

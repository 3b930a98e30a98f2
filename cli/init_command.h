#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `deeptitan init pretrain|finetune|chat`.
void add_init_command(CLI::App& app);

}  // namespace deeptitan

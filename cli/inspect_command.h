#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `inspect DIR|CONFIG`: shapes, parameters, floating-point operations a token, and memory of a model.
void add_inspect_command(CLI::App& app);

}  // namespace deeptitan

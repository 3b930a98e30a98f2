#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `download MODEL [--revision R] [--dir D] [--include GLOB]`: fetches a model from the Hugging Face hub and
/// prints the directory that holds it.
void add_download_command(CLI::App& app);

}  // namespace deeptitan

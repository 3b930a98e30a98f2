#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `tokenizer train|encode|decode`: learns a byte-level BPE from text files, and applies one to files.
void add_tokenizer_command(CLI::App& app);

}  // namespace deeptitan

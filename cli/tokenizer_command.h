#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `tokenizer train|encode|decode|render`: learns a byte-level BPE from text files, applies one to files, and
/// prints what a chat template makes of messages.
void add_tokenizer_command(CLI::App& app);

}  // namespace deeptitan

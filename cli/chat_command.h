#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `chat --model DIR`: a conversation in the terminal.
void add_chat_command(CLI::App& app);

}  // namespace deeptitan

#pragma once

#include <functional>
#include <string>

#include "generate/chat_session.h"

namespace deeptitan {

/// What a conversation's commands may change.
struct ChatState {
  ChatSession& session;
  GenerationOptions& options;
  /// Answers a question.
  std::function<void(const std::string& question)> answer;
};

/// Carries out a line that begins with "/": /help lists what there is. Returns false where the conversation is to end.
/// Throws Error, and changes nothing, where the command cannot be carried out.
bool run_chat_command(ChatState& state, const std::string& line);

/// The commands in one line, for the greeting.
std::string chat_command_names();

}  // namespace deeptitan

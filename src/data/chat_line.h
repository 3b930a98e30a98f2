#pragma once

#include <string_view>
#include <vector>

#include "chat/chat_template.h"

namespace deeptitan {

/// The conversation that one line of a chat file holds:
///   {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
/// `messages_field` names the list; further fields of the line and of a message do not reach the chat template. Throws
/// a usage error that begins with `where` (file:line) unless the list has at least one message of the assistant, each
/// message a role (system, user or assistant) and a content that are texts, and none what would change its meaning
/// (tool_calls, function_call, weight).
std::vector<ChatMessage> parse_chat_line(std::string_view line, std::string_view messages_field,
                                         std::string_view where);

}  // namespace deeptitan

#pragma once

#include <string_view>

#include "chat/message.h"

namespace deeptitan {

/// The conversation that one JSON object of a chat file holds:
///   {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
/// `messages_field` names the list. A content may be a list of parts of text, or null beside tool_calls; what else a
/// message holds is given to the chat template. So are, beside the list, `tools` (a list, or one written as a text) and
/// the variables in the object `chat_template_kwargs`. Where the list is missing, other shapes are known by their keys:
/// ShareGPT's `conversations` (from: system, human, gpt, tool; value) with `system` beside it, Alpaca's `instruction`,
/// `input`, `output`, `system` and `history`, and `prompt` and `completion`. Further fields are not read. A list of
/// messages by itself is a conversation too.
///
/// Throws a usage error that begins with `where` (file:line) for anything else, for a conversation without a message of
/// the assistant, for pairs of answers (chosen, rejected), and for what would change the meaning of a message and is
/// not supported (function_call, weight).
Conversation parse_chat_line(std::string_view line, std::string_view messages_field, std::string_view where);

}  // namespace deeptitan

#pragma once

#include <string>
#include <vector>

#include "jinja/value.h"

namespace deeptitan {

/// One turn of a conversation: role "system", "user", "assistant", "tool" or what else the template knows.
struct ChatMessage {
  std::string role;
  std::string content;
  /// What else the template is given of the message: tool_calls, reasoning_content, name, ... A `content` in it (parts,
  /// or none) takes the place of the text.
  jinja::Dict fields = {};
};

/// Messages, and what besides them the template is given.
struct Conversation {
  std::vector<ChatMessage> messages;
  /// The list of tools that the model may call; none if there is no such list.
  jinja::Value tools = {};
  /// Further variables of the template, such as `thinking` of DeepSeek-V3.1.
  jinja::Dict variables = {};
};

/// The text of a message: its content, or the parts of it, one a line.
std::string text_of(const ChatMessage& message);

/// The same for a content: a text, a list of parts, or none.
std::string text_of_content(const jinja::Value& content);

/// The message that a template is given: a dict of role, content and the further fields.
jinja::Value message_value(const ChatMessage& message);

/// What JSON calls a value's type, for messages: "a text", "an object", "null", ...
std::string json_word(const jinja::Value& value);

/// A message from an object with at least a role; content is a text, a list of parts of text, or none where there are
/// tool calls. Throws a usage error that begins with `where`.
ChatMessage message_from_value(const jinja::Value& value, const std::string& where);

/// Messages from a JSON list of objects with at least a role; content is a text, none or a list of parts. Throws a
/// usage error that begins with `where` and names the message.
std::vector<ChatMessage> messages_from_value(const jinja::Value& list, const std::string& where);

}  // namespace deeptitan

#include "chat/message.h"

#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

std::string keys_of(const jinja::Dict& dict) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : dict.items()) keys.push_back(shown(key.as_string()));
  return fmt::format("{}", fmt::join(keys, ", "));
}

void check_parts(const jinja::Sequence& parts, const std::string& where) {
  for (size_t i = 0; i < parts.items.size(); ++i) {
    const jinja::Dict* part = parts.items[i].as_dict();
    const jinja::Value* type = part == nullptr ? nullptr : part->find("type");
    const jinja::Value* text = part == nullptr ? nullptr : part->find("text");
    if (part == nullptr && parts.items[i].is_string()) continue;
    DT_CHECK_USAGE(type != nullptr && type->is_string(),
                   "{}: content[{}] has no 'type'; a part of text is {{\"type\": \"text\", \"text\": \"...\"}}", where,
                   i);
    DT_CHECK_USAGE(type->as_string() == "text",
                   "{}: content[{}] is a part of type '{}'; only parts of text can be read", where, i,
                   shown(type->as_string()));
    DT_CHECK_USAGE(text != nullptr && text->is_string(),
                   "{}: content[{}] has no 'text'; a part of text is {{\"type\": \"text\", \"text\": \"...\"}}", where,
                   i);
  }
}

}  // namespace

std::string json_word(const jinja::Value& value) {
  if (value.is_none()) return "null";
  if (value.is_string()) return "a text";
  if (value.is_bool()) return value.as_bool() ? "true" : "false";
  if (value.is_number()) return "a number";
  return value.as_dict() != nullptr ? "an object" : "a list";
}

ChatMessage message_from_value(const jinja::Value& value, const std::string& where) {
  const jinja::Dict* dict = value.as_dict();
  DT_CHECK_USAGE(dict != nullptr, "{} is {}; expected an object with a role and a content", where, json_word(value));
  const jinja::Value* role = dict->find("role");
  DT_CHECK_USAGE(role != nullptr, "{} has no 'role' (keys: {}); expected a role and a content", where, keys_of(*dict));
  DT_CHECK_USAGE(role->is_string(), "{}: 'role' is {}; expected a text", where, json_word(*role));
  const jinja::Value* content = dict->find("content");
  const jinja::Value* calls = dict->find("tool_calls");
  const bool calls_tools = calls != nullptr && calls->truthy();
  DT_CHECK_USAGE(calls == nullptr || calls->is_none() || calls->as_sequence() != nullptr,
                 "{}: 'tool_calls' is {}; expected a list of calls", where, json_word(*calls));
  DT_CHECK_USAGE(content != nullptr || calls_tools, "{} has no 'content' (keys: {}); expected a role and a content",
                 where, keys_of(*dict));
  ChatMessage message{role->as_string(), ""};
  for (const auto& [key, field] : dict->items()) {
    if (key.as_string() == "role") continue;
    if (key.as_string() == "content" && field.is_string()) {
      message.content = field.as_string();
      continue;
    }
    message.fields.set(key, field);
  }
  if (content == nullptr) {
    message.fields.set("content", jinja::Value());
  } else if (!content->is_string() && !(content->is_none() && calls_tools)) {
    DT_CHECK_USAGE(content->as_sequence() != nullptr,
                   "{}: 'content' is {}; expected a text, a list of parts, or null beside tool_calls", where,
                   json_word(*content));
    check_parts(*content->as_sequence(), where);
  }
  return message;
}

std::string text_of_content(const jinja::Value& content) {
  if (content.is_string()) return content.as_string();
  const jinja::Sequence* parts = content.as_sequence();
  std::string text;
  for (const jinja::Value& part : parts == nullptr ? std::vector<jinja::Value>() : parts->items) {
    const jinja::Value* of_part = part.as_dict() == nullptr ? &part : part.as_dict()->find("text");
    if (of_part == nullptr || !of_part->is_string()) continue;
    text += (text.empty() ? "" : "\n") + of_part->as_string();
  }
  return text;
}

std::string text_of(const ChatMessage& message) {
  const jinja::Value* content = message.fields.find("content");
  return content == nullptr ? message.content : text_of_content(*content);
}

jinja::Value message_value(const ChatMessage& message) {
  jinja::Dict dict;
  dict.set("role", message.role);
  dict.set("content", message.content);
  for (const auto& [key, value] : message.fields.items()) dict.set(key, value);
  return jinja::Value::dict(std::move(dict));
}

std::vector<ChatMessage> messages_from_value(const jinja::Value& list, const std::string& where) {
  const jinja::Sequence* sequence = list.as_sequence();
  DT_CHECK_USAGE(sequence != nullptr,
                 "{}: expected a list of messages, [{{\"role\": \"user\", \"content\": \"...\"}}], not {}", where,
                 json_word(list));
  std::vector<ChatMessage> messages;
  for (const jinja::Value& item : sequence->items) {
    messages.push_back(message_from_value(item, fmt::format("{}: message {}", where, messages.size())));
  }
  return messages;
}

}  // namespace deeptitan

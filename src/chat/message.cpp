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

ChatMessage message_from(const jinja::Value& value, const std::string& where) {
  const jinja::Dict* dict = value.as_dict();
  DT_CHECK_USAGE(dict != nullptr, "{} is a {}; expected an object with a role and a content", where, value.type_name());
  const jinja::Value* role = dict->find("role");
  DT_CHECK_USAGE(role != nullptr, "{} has no 'role' (keys: {}); expected a role and a content", where, keys_of(*dict));
  DT_CHECK_USAGE(role->is_string(), "{}: 'role' is a {}; expected a text", where, role->type_name());
  const jinja::Value* content = dict->find("content");
  DT_CHECK_USAGE(content != nullptr || dict->find("tool_calls") != nullptr,
                 "{} has no 'content' (keys: {}); expected a role and a content", where, keys_of(*dict));
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
  } else if (!content->is_string() && !content->is_none()) {
    DT_CHECK_USAGE(content->as_sequence() != nullptr, "{}: 'content' is a {}; expected a text or a list of parts",
                   where, content->type_name());
    check_parts(*content->as_sequence(), where);
  }
  return message;
}

}  // namespace

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
                 "{}: expected a list of messages, [{{\"role\": \"user\", \"content\": \"...\"}}], not a {}", where,
                 list.type_name());
  std::vector<ChatMessage> messages;
  for (const jinja::Value& item : sequence->items) {
    messages.push_back(message_from(item, fmt::format("{}: message {}", where, messages.size())));
  }
  return messages;
}

}  // namespace deeptitan

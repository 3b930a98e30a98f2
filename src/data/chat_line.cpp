#include "data/chat_line.h"

#include <algorithm>
#include <string>

#include <nlohmann/json.hpp>

#include "config/nearest_name.h"
#include "core/error.h"

namespace deeptitan {

namespace {

std::vector<std::string> keys_of(const nlohmann::json& object) {
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

/// The text that `message` has under `key`.
const std::string& text_of(const nlohmann::json& message, const char* key, const std::string& where) {
  const auto value = message.find(key);
  DT_CHECK_USAGE(value != message.end(), "{} has no '{}' (keys: {}); expected a role and a content", where, key,
                 fmt::join(keys_of(message), ", "));
  DT_CHECK_USAGE(value->is_string(), "{}: '{}' is {}; expected a text", where, key, value->type_name());
  return value->get_ref<const std::string&>();
}

ChatMessage parse_message(const nlohmann::json& message, const std::string& where) {
  static const std::vector<std::string> kRoles = {"system", "user", "assistant"};
  DT_CHECK_USAGE(message.is_object(), "{} is {}; expected an object with a role and a content", where,
                 message.type_name());
  for (const char* key : {"tool_calls", "function_call", "weight"}) {
    DT_CHECK_USAGE(!message.contains(key),
                   "{} has '{}', which is not supported: a message is trained on as its role and content alone, and "
                   "every message of the assistant is; remove it",
                   where, key);
  }
  ChatMessage result{text_of(message, "role", where), text_of(message, "content", where)};
  DT_CHECK_USAGE(std::find(kRoles.begin(), kRoles.end(), result.role) != kRoles.end(), "{} has role '{}'{} (roles: {})",
                 where, result.role, did_you_mean(result.role, kRoles), fmt::join(kRoles, ", "));
  return result;
}

}  // namespace

std::vector<ChatMessage> parse_chat_line(std::string_view line, std::string_view messages_field,
                                         std::string_view where) {
  const nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  DT_CHECK_USAGE(object.is_object(), "{}: expected a JSON object on each line of a chat file", where);
  const auto list = object.find(messages_field);
  if (list == object.end()) {
    const std::vector<std::string> names = keys_of(object);
    fail_usage("{}: no field '{}'{} (fields: {}); set messages_field of the source to the one that holds the messages",
               where, messages_field, did_you_mean(messages_field, names), fmt::join(names, ", "));
  }
  DT_CHECK_USAGE(list->is_array(), "{}: field '{}' is {}; expected a list of messages", where, messages_field,
                 list->type_name());
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& message : *list) {
    messages.push_back(parse_message(message, fmt::format("{}: {}[{}]", where, messages_field, messages.size())));
  }
  DT_CHECK_USAGE(
      std::any_of(messages.begin(), messages.end(), [](const ChatMessage& m) { return m.role == "assistant"; }),
      "{}: no message of the assistant, so there is nothing to learn; remove the line", where);
  return messages;
}

}  // namespace deeptitan

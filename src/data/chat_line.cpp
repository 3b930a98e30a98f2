#include "data/chat_line.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/shown_text.h"
#include "jinja/template.h"

namespace deeptitan {

namespace {

// Keys keep their order: a template prints tools and arguments as they stand.
using Json = nlohmann::ordered_json;

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) names.push_back(shown(name));
  return names;
}

jinja::Value value_of(const Json& json, const std::string& where) {
  return jinja::value_from_json(write_json(json), where);
}

// The text under a key, empty where it is missing or null.
std::string text_or_none(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  DT_CHECK_USAGE(found->is_string(), "{}: '{}' is {}; expected a text", where, key, json_word(value_of(*found, where)));
  return found->get<std::string>();
}

void check_role(const std::string& role, const std::string& where) {
  static const std::vector<std::string> kRoles = {"system", "developer", "user", "assistant", "tool"};
  DT_CHECK_USAGE(std::find(kRoles.begin(), kRoles.end(), role) != kRoles.end(), "{} has role '{}'{} (roles: {})", where,
                 shown(role), did_you_mean(role, kRoles), fmt::join(kRoles, ", "));
}

// {"from": "gpt", "value": "..."} as role and content.
Json from_share_gpt(const Json& message, const std::string& where) {
  static const std::vector<std::pair<std::string, std::string>> kSpeakers = {
      {"system", "system"},         {"human", "user"},          {"user", "user"},
      {"gpt", "assistant"},         {"assistant", "assistant"}, {"chatgpt", "assistant"},
      {"model", "assistant"},       {"tool", "tool"},           {"observation", "tool"},
      {"function_response", "tool"}};
  const std::string speaker = text_or_none(message, "from", where);
  const auto found =
      std::find_if(kSpeakers.begin(), kSpeakers.end(), [&](const auto& known) { return known.first == speaker; });
  if (found == kSpeakers.end()) {
    std::vector<std::string> known;
    known.reserve(kSpeakers.size());
    for (const auto& [name, role] : kSpeakers) known.push_back(name);
    fail_usage("{} is from '{}'{}; expected one of {}", where, shown(speaker), did_you_mean(speaker, known),
               fmt::join(known, ", "));
  }
  Json result = {{"role", found->second}};
  for (const auto& [key, value] : message.items()) {
    if (key != "from") result[key == "value" ? "content" : key] = value;
  }
  return result;
}

ChatMessage parse_message(const Json& message, const std::string& where) {
  if (message.is_object()) {
    for (const char* key : {"function_call", "weight"}) {
      DT_CHECK_USAGE(!message.contains(key),
                     "{} has '{}', which is not supported: every message of the assistant is trained on alike, and its "
                     "calls stand in tool_calls; remove it",
                     where, key);
    }
    if (message.contains("from") && !message.contains("role")) {
      return parse_message(from_share_gpt(message, where), where);
    }
  }
  ChatMessage result = message_from_value(value_of(message, where), where);
  check_role(result.role, where);
  return result;
}

std::vector<ChatMessage> parse_messages(const Json& list, std::string_view field, std::string_view where) {
  DT_CHECK_USAGE(list.is_array(), "{}: field '{}' is {}; expected a list of messages", where, field,
                 json_word(value_of(list, std::string(where))));
  std::vector<ChatMessage> messages;
  for (const Json& message : list) {
    messages.push_back(parse_message(message, fmt::format("{}: {}[{}]", where, field, messages.size())));
  }
  return messages;
}

// {"instruction": ..., "input": ..., "output": ...}, with the turns before it in `history`: [[question, answer], ...].
std::vector<ChatMessage> from_alpaca(const Json& object, const std::string& where) {
  std::vector<ChatMessage> messages;
  if (const std::string system = text_or_none(object, "system", where); !system.empty()) {
    messages.push_back({"system", system});
  }
  if (const auto history = object.find("history"); history != object.end() && !history->is_null()) {
    const auto is_turn = [](const Json& turn) {
      return turn.is_array() && turn.size() == 2 && turn[0].is_string() && turn[1].is_string();
    };
    DT_CHECK_USAGE(history->is_array() && std::all_of(history->begin(), history->end(), is_turn),
                   "{}: 'history' must be a list of questions and answers, [[\"...\", \"...\"]]", where);
    for (const Json& turn : *history) {
      messages.push_back({"user", turn[0].get<std::string>()});
      messages.push_back({"assistant", turn[1].get<std::string>()});
    }
  }
  const std::string input = text_or_none(object, "input", where);
  const std::string instruction = text_or_none(object, "instruction", where);
  messages.push_back({"user", input.empty() ? instruction : instruction + "\n\n" + input});
  messages.push_back({"assistant", text_or_none(object, "output", where)});
  return messages;
}

// {"prompt": ..., "completion": ...}, each a text or a list of messages.
std::vector<ChatMessage> from_prompt_and_completion(const Json& object, const std::string& where) {
  std::vector<ChatMessage> messages;
  for (const auto& [key, role] : {std::pair("prompt", "user"), std::pair("completion", "assistant")}) {
    const Json& part = object.at(key);
    if (part.is_array()) {
      for (ChatMessage& message : parse_messages(part, key, where)) messages.push_back(std::move(message));
    } else {
      messages.push_back({role, text_or_none(object, key, where)});
    }
  }
  return messages;
}

jinja::Value parse_tools(const Json& tools, const std::string& where) {
  // Datasets whose columns have one type each keep the list as a text.
  const jinja::Value value = tools.is_string() ? jinja::value_from_json(tools.get<std::string>(), where + ": 'tools'")
                                               : value_of(tools, where);
  DT_CHECK_USAGE(value.is_none() || value.as_sequence() != nullptr, "{}: 'tools' is {}; expected a list of tools",
                 where, json_word(value));
  return value.truthy() ? value : jinja::Value();
}

std::vector<ChatMessage> messages_of(const Json& object, std::string_view field, const std::string& where) {
  if (const auto list = object.find(field); list != object.end()) return parse_messages(*list, field, where);
  for (const char* key : {"chosen", "rejected"}) {
    DT_CHECK_USAGE(!object.contains(key),
                   "{}: '{}' belongs to pairs of answers for learning a preference, which there is no training for; "
                   "give conversations, or name the list to learn with messages_field",
                   where, key);
  }
  // An answer that is marked as bad would be learnt like a good one.
  const auto label = object.find("label");
  DT_CHECK_USAGE(label == object.end() || !label->is_boolean() || !object.contains("completion"),
                 "{}: 'label' says whether an answer is wanted, for learning a preference, which there is no training "
                 "for; keep the lines with true and remove their label",
                 where);
  if (field == "messages" && object.contains("conversations")) {
    std::vector<ChatMessage> messages = parse_messages(object["conversations"], "conversations", where);
    const std::string system = text_or_none(object, "system", where);
    if (!system.empty()) messages.insert(messages.begin(), ChatMessage{"system", system});
    return messages;
  }
  if (field == "messages" && object.contains("instruction") && object.contains("output")) {
    return from_alpaca(object, where);
  }
  if (field == "messages" && object.contains("prompt") && object.contains("completion")) {
    return from_prompt_and_completion(object, where);
  }
  const std::vector<std::string> names = keys_of(object);
  fail_usage(
      "{}: no field '{}'{} (fields: {}); expected a list of messages, which messages_field of the source names, or "
      "conversations, instruction and output, or prompt and completion",
      where, field, did_you_mean(field, names), fmt::join(names, ", "));
}

}  // namespace

Conversation parse_chat_line(std::string_view line, std::string_view messages_field, std::string_view where_view) {
  const std::string where(where_view);
  const Json object = read_json<Json>(line, {.where = where, .kind = ErrorKind::kUsage});
  DT_CHECK_USAGE(object.is_object() || object.is_array(),
                 "{}: expected a JSON object with a list of messages, or such a list, found {}", where,
                 json_kind(object));
  Conversation conversation;
  conversation.messages =
      object.is_array() ? parse_messages(object, "messages", where) : messages_of(object, messages_field, where);
  const std::vector<ChatMessage>& messages = conversation.messages;
  DT_CHECK_USAGE(
      std::any_of(messages.begin(), messages.end(), [](const ChatMessage& m) { return m.role == "assistant"; }),
      "{}: no message of the assistant, so there is nothing to learn; remove the line", where);
  if (object.is_array()) return conversation;
  if (const auto tools = object.find("tools"); tools != object.end()) conversation.tools = parse_tools(*tools, where);
  if (const auto variables = object.find("chat_template_kwargs"); variables != object.end() && !variables->is_null()) {
    DT_CHECK_USAGE(variables->is_object(), "{}: 'chat_template_kwargs' must be an object of the template's variables",
                   where);
    conversation.variables = *value_of(*variables, where).as_dict();
  }
  return conversation;
}

}  // namespace deeptitan

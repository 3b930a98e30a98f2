#include "message_list.h"

#include "core/error.h"
#include "jinja/template.h"

namespace deeptitan {

jinja::Value parse_message_list(std::string_view json, const std::string& where) {
  jinja::Value messages = jinja::value_from_json(json, where);
  if (const jinja::Dict* object = messages.as_dict(); object != nullptr && object->find("messages") != nullptr) {
    messages = jinja::Value(*object->find("messages"));
  }
  const jinja::Sequence* list = messages.as_sequence();
  DT_CHECK_USAGE(list != nullptr && !list->items.empty(),
                 "{}: expected a list of messages, [{{\"role\": \"user\", \"content\": \"...\"}}], not {}", where,
                 list != nullptr ? "an empty one" : "a " + std::string(messages.type_name()));
  for (size_t i = 0; i < list->items.size(); ++i) {
    const jinja::Dict* message = list->items[i].as_dict();
    const jinja::Value* role = message == nullptr ? nullptr : message->find("role");
    DT_CHECK_USAGE(role != nullptr && role->is_string(),
                   "{}: message {} has no role; write {{\"role\": ..., \"content\": ...}}", where, i);
  }
  return messages;
}

}  // namespace deeptitan

#pragma once

#include <string>
#include <string_view>

#include "jinja/value.h"

namespace deeptitan {

/// The messages that a JSON text holds, as a chat template takes them: a list of objects with a role, or an object
/// whose `messages` is one; what they hold besides reaches the template as it is. Throws a usage error that begins with
/// `where` for anything else.
jinja::Value parse_message_list(std::string_view json, const std::string& where);

}  // namespace deeptitan

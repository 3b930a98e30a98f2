#pragma once

#include <string_view>

#include "jinja/ast.h"

namespace deeptitan::jinja {

/// Reads a template into statements. Throws SyntaxFailure with the line of what is wrong or not supported.
Body parse_template(std::string_view source);

}  // namespace deeptitan::jinja

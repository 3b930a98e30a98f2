#pragma once

#include <set>
#include <string>

#include "jinja/ast.h"

namespace deeptitan::jinja {

/// The names that a template uses.
struct Names {
  std::set<std::string> read;
  std::set<std::string> assigned;  // by set, for, with, a macro's parameters, or as a macro
  std::set<std::string> tested;    // asked of whether they are defined
};

Names names_of(const Body& body);

}  // namespace deeptitan::jinja

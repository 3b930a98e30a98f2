#pragma once

#include <string>
#include <vector>

#include "chat/chat_template.h"

namespace CLI {
class App;
}  // namespace CLI

namespace deeptitan {

/// What the command line gives a chat template besides the messages.
struct TemplateArguments {
  std::vector<std::string> variables;  // NAME=VALUE
  std::string tools;                   // a file

  /// Throws a usage error for a variable that is no NAME=VALUE, and for a file that holds no list of tools.
  ChatRenderOptions options() const;
  bool given() const { return !variables.empty() || !tools.empty(); }
};

/// Adds --template-var and --tools; `when` begins what their help says.
void add_template_options(CLI::App& command, TemplateArguments& arguments, const std::string& when = "");

}  // namespace deeptitan

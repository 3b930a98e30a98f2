#include "template_options.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/shown_text.h"
#include "valid_text.h"

namespace deeptitan {

ChatRenderOptions TemplateArguments::options() const {
  ChatRenderOptions result;
  for (const std::string& variable : variables) {
    const size_t equals = variable.find('=');
    DT_CHECK_USAGE(equals != std::string::npos && equals > 0,
                   "--template-var {}: expected NAME=VALUE, such as thinking=true", shown(variable));
    const std::string name = variable.substr(0, equals);
    const std::string text = valid_text(variable.substr(equals + 1), "--template-var " + name);
    const bool is_json = nlohmann::json::accept(text);
    result.variables.set(name, is_json ? jinja::value_from_json(text, "--template-var " + name) : jinja::Value(text));
  }
  if (!tools.empty()) {
    const jinja::Value list = jinja::value_from_json(read_file(tools), tools);
    DT_CHECK_USAGE(
        list.as_sequence() != nullptr,
        "{}: expected a list of tools, [{{\"type\": \"function\", \"function\": {{\"name\": ...}}}}], not {}", tools,
        json_word(list));
    result.tools = list;
  }
  return result;
}

void add_template_options(CLI::App& command, TemplateArguments& arguments, const std::string& when) {
  command
      .add_option("--template-var", arguments.variables,
                  when +
                      "A variable of the chat template, such as thinking=true; VALUE is JSON, or else a text; may be "
                      "repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  command
      .add_option("--tools", arguments.tools, when + "JSON list of the tools that the chat template tells the model of")
      ->type_name("FILE");
}

}  // namespace deeptitan

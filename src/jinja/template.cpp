#include "jinja/template.h"

#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "jinja/interpreter.h"
#include "jinja/lexer.h"
#include "jinja/parser.h"

namespace deeptitan::jinja {

struct Template::Parsed {
  Body body;
};

Template::Template(std::string_view source, std::string name) : name_(std::move(name)) {
  DT_CHECK(is_valid_utf8(source), "{}: the template is not UTF-8; save it as UTF-8", name_);
  try {
    parsed_ = std::make_unique<const Parsed>(Parsed{parse_template(source)});
  } catch (const SyntaxFailure& failure) {
    fail("{} line {}: {}", name_, failure.line, failure.what());
  }
}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

std::string Template::render(const Dict& variables, const RenderOptions& options) const {
  Interpreter interpreter(variables, options);
  try {
    return interpreter.render(parsed_->body);
  } catch (const Failure& failure) {
    fail("{} line {}: {}", name_, interpreter.line(), failure.what());
  }
}

}  // namespace deeptitan::jinja

#include "jinja/template.h"

#include <utility>

#include "core/error.h"
#include "core/shown_text.h"
#include "core/utf8.h"
#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/lexer.h"
#include "jinja/names.h"
#include "jinja/parser.h"

namespace deeptitan::jinja {
namespace {

// Of a message, which may hold what the template or the conversation says.
constexpr size_t kMostShown = 2000;

}  // namespace

struct Template::Parsed {
  Body body;
  Names names;
};

Template::Template(std::string_view source, std::string name) : name_(std::move(name)) {
  DT_CHECK(is_valid_utf8(source), "{}: the template is not UTF-8; save it as UTF-8", name_);
  try {
    parsed_ = [&] {
      Body body = parse_template(source);
      Names names = names_of(body);
      return std::make_unique<const Parsed>(Parsed{std::move(body), std::move(names)});
    }();
  } catch (const SyntaxFailure& failure) {
    fail("{} line {}: {}", name_, failure.line, shown(failure.what(), kMostShown));
  }
}

bool Template::reads(const std::string& name) const {
  return parsed_->names.read.contains(name);
}

std::vector<std::string> Template::names_read() const {
  std::vector<std::string> names;
  for (const std::string& name : parsed_->names.read) {
    const bool own = parsed_->names.assigned.contains(name) && !parsed_->names.tested.contains(name);
    if (!own && name != "loop" && find_global(name) == nullptr) names.push_back(name);
  }
  return names;
}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

std::string Template::render(const Dict& variables, const RenderOptions& options) const {
  return render_traced(variables, options).bytes();
}

TracedText Template::render_traced(const Dict& variables, const RenderOptions& options) const {
  Interpreter interpreter(variables, options);
  try {
    return interpreter.render(parsed_->body);
  } catch (const Failure& failure) {
    fail("{} line {}: {}", name_, interpreter.line(), shown(failure.what(), kMostShown));
  }
}

}  // namespace deeptitan::jinja

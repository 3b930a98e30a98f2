#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/value.h"

namespace deeptitan::jinja {

/// What a rendering may use besides its variables.
struct RenderOptions {
  Limits limits;
  /// The local time that strftime_now formats; the machine's clock if empty.
  std::function<std::tm()> now;
};

/// A template of the Jinja language, as Hugging Face transformers renders chat templates: jinja2 3.1 with trim_blocks,
/// lstrip_blocks, loop controls, the `generation` tag (rendered as its body), raise_exception, strftime_now, and tojson
/// without HTML escapes, in an ImmutableSandboxedEnvironment. What jinja2 has and this does not (inheritance, imports,
/// recursive loops, HTML escaping, integers beyond 64 bits, ...) is an error that names it and its line, never a
/// different text. Rendering is const and may run on several threads at once.
class Template {
 public:
  /// Reads a template. `name` stands before the line number in error messages. Throws Error for one that cannot be
  /// read, with the line: "chat_template.jinja line 3: expected ...".
  Template(std::string_view source, std::string name);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  /// The text for these variables. Throws Error, with the line, for what fails while rendering (raise_exception and
  /// exceeded limits among it).
  std::string render(const Dict& variables, const RenderOptions& options = {}) const;

  /// The same, with which of its bytes came from which text of the variables (Value::traced).
  TracedText render_traced(const Dict& variables, const RenderOptions& options = {}) const;

  /// Whether it uses a variable of this name.
  bool reads(const std::string& name) const;

  /// The variables that it takes from outside: those that it never sets, and those that it sets where they are not
  /// given.
  std::vector<std::string> names_read() const;

 private:
  struct Parsed;
  std::unique_ptr<const Parsed> parsed_;
  std::string name_;
};

/// A JSON text as a template value; objects keep the order of their keys. Throws Error if it is not JSON, naming
/// `source`.
Value value_from_json(std::string_view json, std::string_view source);

}  // namespace deeptitan::jinja

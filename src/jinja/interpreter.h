#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "jinja/ast.h"
#include "jinja/template.h"
#include "jinja/value.h"

namespace deeptitan::jinja {

/// Variables of one block, and the block around it. A lookup goes outwards; `set` writes to the innermost scope, which
/// is how jinja2 keeps a loop's body from changing what is outside of it.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> around) : outer(std::move(around)) {}
  std::unordered_map<std::string, Value> variables;
  std::shared_ptr<Scope> outer;
};

/// One rendering of a template.
class Interpreter {
 public:
  Interpreter(const Dict& variables, const RenderOptions& options);
  /// Empties namespaces and the scopes that macros keep, which may hold each other.
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// The text of the whole template. Throws Failure; line() then tells where.
  TracedText render(const Body& body);
  int line() const { return line_; }

  Budget& budget() { return budget_; }
  Value call_filter(const std::string& name, const Value& subject, const Arguments& arguments);
  bool call_test(const std::string& name, const Value& subject, const Arguments& arguments);
  Value new_namespace(Dict attributes);
  /// The options' time through strftime.
  std::string format_time(const std::string& format) const;
  /// The text of a macro's body with its parameters bound in a new scope inside `closure`.
  TracedText render_macro(const std::vector<Parameter>& parameters, const Body& body,
                          const std::shared_ptr<Scope>& closure, std::vector<std::pair<std::string, Value>> bound);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Sets the innermost scope while it lives.
  class Entered {
   public:
    Entered(Interpreter& interpreter, std::shared_ptr<Scope> scope);
    ~Entered() { interpreter_.scope_ = std::move(previous_); }
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;

   private:
    Interpreter& interpreter_;
    std::shared_ptr<Scope> previous_;
  };

  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow run_if(const Statement& statement);
  Flow run_for(const Statement& statement);
  Flow run_set_block(const Statement& statement);
  Flow run_filter_block(const Statement& statement);
  Flow run_with(const Statement& statement);
  void define_macro(const Statement& statement);
  void print(const TracedText& text);
  void assign(const Expression& target, const Value& value);
  // Runs the body in a scope inside `outer` and hands its text over; null if a break or continue left it.
  std::unique_ptr<TracedText> capture(const Body& body, Flow& flow);
  Value filter_chain(const Expression* filter, const Value& subject);

  Value evaluate(const Expression& node);
  Value evaluate_name(const Expression& node);
  Value evaluate_dict(const Expression& node);
  Value evaluate_unary(const Expression& node);
  Value evaluate_binary(const Expression& node);
  bool evaluate_compare(const Expression& node);
  Value evaluate_concat(const Expression& node);
  Value evaluate_slice(const Expression& node);
  Value evaluate_call(const Expression& node);
  std::vector<Value> evaluate_all(const std::vector<ExpressionPtr>& nodes);
  Arguments evaluate_arguments(const CallArguments& arguments);

  const Dict& variables_;
  const RenderOptions& options_;
  Budget budget_;
  int line_ = 1;
  std::shared_ptr<Scope> scope_;
  TracedText* output_ = nullptr;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Scope>> kept_scopes_;  // scopes that a macro closes over
};

}  // namespace deeptitan::jinja

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "jinja/ast.h"
#include "jinja/interpreter.h"

namespace deeptitan::jinja {

/// What {% macro %} defines.
class Macro : public Object {
 public:
  /// The parameters and the body are those of the statement, which outlives the rendering. Throws Failure where the
  /// body reads what jinja2 collects further arguments in.
  Macro(std::string name, const std::vector<Parameter>& parameters, const Body& body, std::shared_ptr<Scope> closure);
  std::string type_name() const override { return "Macro"; }
  std::string text(Budget& budget) const override;
  std::unique_ptr<Value> attribute(const std::string& name, Budget& budget) override;
  Value call(Interpreter& interpreter, const Arguments& arguments) override;

 private:
  std::string name_;
  const std::vector<Parameter>& parameters_;
  const Body& body_;
  std::shared_ptr<Scope> closure_;
};

/// The variable `loop` inside a for loop.
class Loop : public Object {
 public:
  explicit Loop(std::vector<Value> items) : items_(std::move(items)) {}
  std::string type_name() const override { return "LoopContext"; }
  std::string text(Budget& budget) const override;
  std::unique_ptr<Value> attribute(const std::string& name, Budget& budget) override;
  /// Always a failure: only recursive loops can be called.
  Value call(Interpreter& interpreter, const Arguments& arguments) override;

  bool done() const { return index_ == items_.size(); }
  void advance() { ++index_; }
  const Value& item() const { return items_[index_]; }

 private:
  std::vector<Value> items_;
  size_t index_ = 0;
};

}  // namespace deeptitan::jinja

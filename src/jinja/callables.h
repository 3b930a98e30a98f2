#pragma once

#include <memory>
#include <string>
#include <vector>

#include "jinja/ast.h"
#include "jinja/interpreter.h"

namespace deeptitan::jinja {

/// What {% macro %} defines, and the caller() of a {% call %} block.
class Macro : public Object {
 public:
  /// The parameters and the body are those of the statement, which outlives the rendering.
  Macro(std::string name, const std::vector<Parameter>& parameters, const Body& body, std::shared_ptr<Scope> closure);
  std::string type_name() const override { return "Macro"; }
  std::string text(Budget& budget) const override;
  std::unique_ptr<Value> attribute(const std::string& name, Budget& budget) override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, const Arguments& arguments) override;

 private:
  std::string name_;
  const std::vector<Parameter>& parameters_;
  const Body& body_;
  std::shared_ptr<Scope> closure_;
  // Whether the body uses the names that collect further arguments; only then are such arguments accepted.
  bool uses_varargs_ = false;
  bool uses_kwargs_ = false;
  bool uses_caller_ = false;
};

/// The variable `loop` inside a for loop.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  explicit Loop(std::vector<Value> items) : items_(std::move(items)) {}
  std::string type_name() const override { return "LoopContext"; }
  std::string text(Budget& budget) const override;
  std::unique_ptr<Value> attribute(const std::string& name, Budget& budget) override;
  bool callable() const override { return true; }
  /// Always a failure: only recursive loops can be called.
  Value call(Interpreter& interpreter, const Arguments& arguments) override;

  bool done() const { return index_ == items_.size(); }
  void advance() { ++index_; }
  const Value& item() const { return items_[index_]; }
  /// cycle(a, b, ...): the arguments in turn.
  Value cycle(const Arguments& arguments) const;
  /// changed(a, ...): whether the arguments differ from those of the last call.
  bool changed(const Arguments& arguments, Budget& budget);

 private:
  std::vector<Value> items_;
  size_t index_ = 0;
  std::unique_ptr<std::vector<Value>> last_;
};

}  // namespace deeptitan::jinja

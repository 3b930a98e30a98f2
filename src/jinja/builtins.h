#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/value.h"

namespace deeptitan::jinja {

class Interpreter;

using Filter = Value (*)(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
using Test = bool (*)(Interpreter& interpreter, const Value& subject, const Arguments& arguments);

/// The filter, test or global function of that name; null (none for a function) if there is none.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
std::unique_ptr<Value> find_global(std::string_view name);

/// All names, in order, for error messages.
std::vector<std::string_view> filter_names();
std::vector<std::string_view> test_names();

/// getattr(self, name) in Python: a bound method of str, list, tuple, dict or range, or an attribute of an object. Null
/// if there is none; undefined, saying so, where the sandbox forbids it (list.append); throws Failure if Python has it
/// and this interpreter does not.
std::unique_ptr<Value> python_attribute(const Value& self, const std::string& name, Budget& budget);

/// The arguments of a call matched to parameter names, as Python matches them.
class BoundArguments {
 public:
  /// Throws Failure for an unknown keyword, a parameter given twice, too many arguments, or fewer than `required`.
  BoundArguments(std::string_view function, const Arguments& arguments, std::initializer_list<const char*> parameters,
                 size_t required = 0);

  /// The argument, or null if it was not given.
  const Value* get(size_t parameter) const { return bound_[parameter]; }
  const Value& operator[](size_t parameter) const { return *bound_[parameter]; }
  int64_t int_or(size_t parameter, int64_t otherwise) const;
  bool bool_or(size_t parameter, bool otherwise) const;

 private:
  std::vector<const char*> parameters_;
  std::vector<const Value*> bound_;
};

/// A function of the language itself: a global, or a method bound to its object.
class Function : public Object {
 public:
  using Body = Value (*)(Interpreter& interpreter, const Value& self, const Arguments& arguments);
  Function(std::string name, Body body, Value self = {})
      : name_(std::move(name)), body_(body), self_(std::move(self)) {}
  std::string type_name() const override { return "builtin_function_or_method"; }
  Value call(Interpreter& interpreter, const Arguments& arguments) override {
    return body_(interpreter, self_, arguments);
  }

 private:
  std::string name_;
  Body body_;
  Value self_;
};

/// A row of a table of methods.
struct Method {
  std::string_view name;
  Function::Body body;
};

/// The method of str with that name, or null; and all their names.
Function::Body find_string_method(std::string_view name);
std::vector<std::string_view> string_method_names();

/// The names of a table's rows, in order.
template <typename Row, size_t kCount>
std::vector<std::string_view> names_of_rows(const Row (&rows)[kCount]) {
  std::vector<std::string_view> names;
  for (const Row& row : rows) names.push_back(row.name);
  return names;
}

// Text functions that a filter and a method share. Positions count characters.
TracedText replace_text(const TracedText& whole, std::string_view from, const TracedText& to, int64_t count,
                        Budget& budget);
/// str.splitlines(): line ends are those of Python, and are dropped unless `keep_ends`. Views into `text`.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends, Budget& budget);

/// str.format: {}, {0} and {name}, with !r, !s and a format specification.
Value format_text(Interpreter& interpreter, const Value& self, const Arguments& arguments);

/// dict(*args, **kwargs).
Dict make_dict(const Arguments& arguments, Budget& budget);

// Filters that live in a file of their own; filters.cpp holds the table.
Value filter_sort(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_dictsort(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_unique(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_min(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_max(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_map(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_select(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_reject(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_selectattr(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_rejectattr(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_join(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_first(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_last(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_list(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_items(Interpreter& interpreter, const Value& subject, const Arguments& arguments);
Value filter_reverse(Interpreter& interpreter, const Value& subject, const Arguments& arguments);

}  // namespace deeptitan::jinja

#include <algorithm>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/operators.h"

// The tests of jinja2 (jinja2/tests.py): what stands behind `is`.

namespace deeptitan::jinja {
namespace {

template <bool (*kTest)(const Value&)>
bool plain(Interpreter& /*interpreter*/, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("this test", arguments, {});
  return kTest(subject);
}

bool is_defined(const Value& value) {
  return !value.is_undefined();
}
bool is_undefined(const Value& value) {
  return value.is_undefined();
}
bool is_none(const Value& value) {
  return value.is_none();
}
bool is_boolean(const Value& value) {
  return value.is_bool();
}
bool is_true(const Value& value) {
  return value.is_bool() && value.as_bool();
}
bool is_false(const Value& value) {
  return value.is_bool() && !value.as_bool();
}
bool is_integer(const Value& value) {
  return value.is_int() && !value.is_bool();
}
bool is_float(const Value& value) {
  return value.is_float();
}
bool is_number(const Value& value) {
  return value.is_number();
}
bool is_string(const Value& value) {
  return value.is_string();
}
bool is_mapping(const Value& value) {
  return value.as_dict() != nullptr;
}
// jinja2 asks for len() and [], which undefined has and the views of a dict lack.
bool is_sequence(const Value& value) {
  return value.is_undefined() || value.is_string() || value.as_dict() != nullptr ||
         (value.as_sequence() != nullptr && value.as_sequence()->indexable());
}

bool remainder_is(const Value& value, const Value& divisor, int64_t wanted, Budget& budget) {
  return equal(modulo(value, divisor), Value(wanted), budget);
}
bool is_odd(Interpreter& interpreter, const Value& subject, const Arguments& /*arguments*/) {
  return remainder_is(subject, Value(2), 1, interpreter.budget());
}
bool is_even(Interpreter& interpreter, const Value& subject, const Arguments& /*arguments*/) {
  return remainder_is(subject, Value(2), 0, interpreter.budget());
}
bool is_divisible_by(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("divisibleby", arguments, {"num"}, 1);
  return remainder_is(subject, bound[0], 0, interpreter.budget());
}

bool is_equal(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("equalto", arguments, {"other"}, 1);
  return equal(subject, bound[0], interpreter.budget());
}
bool is_not_equal(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return !is_equal(interpreter, subject, arguments);
}

template <bool kSwap, bool kOrEqual>
bool ordered(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("this test", arguments, {"other"}, 1);
  const Value& left = kSwap ? bound[0] : subject;
  const Value& right = kSwap ? subject : bound[0];
  return less_than(left, right, interpreter.budget()) || (kOrEqual && equal(left, right, interpreter.budget()));
}

bool is_in(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("in", arguments, {"seq"}, 1);
  return contains(bound[0], subject, interpreter.budget());
}

struct NamedTest {
  std::string_view name;
  Test test;
};

constexpr NamedTest kTests[] = {
    {"!=", is_not_equal},
    {"<", ordered<false, false>},
    {"<=", ordered<false, true>},
    {"==", is_equal},
    {">", ordered<true, false>},
    {">=", ordered<true, true>},
    {"boolean", plain<is_boolean>},
    {"defined", plain<is_defined>},
    {"divisibleby", is_divisible_by},
    {"eq", is_equal},
    {"equalto", is_equal},
    {"even", is_even},
    {"false", plain<is_false>},
    {"float", plain<is_float>},
    {"ge", ordered<true, true>},
    {"greaterthan", ordered<true, false>},
    {"gt", ordered<true, false>},
    {"in", is_in},
    {"integer", plain<is_integer>},
    {"iterable", plain<is_iterable>},
    {"le", ordered<false, true>},
    {"lessthan", ordered<false, false>},
    {"lt", ordered<false, false>},
    {"mapping", plain<is_mapping>},
    {"ne", is_not_equal},
    {"none", plain<is_none>},
    {"number", plain<is_number>},
    {"odd", is_odd},
    {"sequence", plain<is_sequence>},
    {"string", plain<is_string>},
    {"true", plain<is_true>},
    {"undefined", plain<is_undefined>},
};

}  // namespace

Test find_test(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const NamedTest& row) { return row.name == name; });
  return found == std::end(kTests) ? nullptr : found->test;
}

std::vector<std::string_view> test_names() {
  return names_of_rows(kTests);
}

}  // namespace deeptitan::jinja

#pragma once

#include <string>
#include <vector>

#include "jinja/value.h"

namespace deeptitan::jinja {

// Python's operators, and jinja2's attribute and item access in an ImmutableSandboxedEnvironment. What Python refuses
// with an exception throws Failure; integers are 64 bits wide and throw where Python would grow them.

Value add(const Value& a, const Value& b, Budget& budget);
Value subtract(const Value& a, const Value& b);
Value multiply(const Value& a, const Value& b, Budget& budget);
Value divide(const Value& a, const Value& b);
Value floor_divide(const Value& a, const Value& b);
Value modulo(const Value& a, const Value& b);
Value power(const Value& a, const Value& b);
Value negate(const Value& a);
Value positive(const Value& a);

bool equal(const Value& a, const Value& b, Budget& budget);
/// a < b, for numbers, text, lists and tuples.
bool less_than(const Value& a, const Value& b, Budget& budget);
/// `item in container`.
bool contains(const Value& container, const Value& item, Budget& budget);

/// len(value).
int64_t length_of(const Value& value);
/// True if iterate accepts the value.
bool is_iterable(const Value& value);
/// The items of any iterable: elements, keys of a dict, characters of a text; nothing for undefined.
std::vector<Value> iterate(const Value& value, Budget& budget);

/// obj.name: an attribute of the Python object (a method of str, list, ...), else obj["name"], else undefined.
Value get_attribute(const Value& object, const std::string& name, Budget& budget);
/// obj[key]: an element, else for a text key the attribute of that name, else undefined.
Value get_item(const Value& object, const Value& key, Budget& budget);
/// obj[start:stop:step]; None stands for a bound that is left out.
Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step, Budget& budget);

/// `value` as an int argument named `what`; bool counts, float does not.
int64_t require_int(const Value& value, const char* what);
/// `value` as a text argument named `what`.
const std::string& require_string(const Value& value, const char* what);

}  // namespace deeptitan::jinja

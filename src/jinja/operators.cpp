#include "jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include <fmt/format.h>

#include "core/utf8.h"
#include "jinja/builtins.h"
#include "jinja/text.h"
#include "jinja/unicode.h"

namespace deeptitan::jinja {
namespace {

void require_defined(const Value& value) {
  if (value.is_undefined()) throw Failure(value.undefined_message());
}

[[noreturn]] void fail_operands(const char* symbol, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  throw Failure(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", symbol, a.type_name(), b.type_name()));
}

[[noreturn]] void fail_overflow() {
  throw Failure("an integer result does not fit 64 bits; longer ones are not supported");
}

void require_numbers(const char* symbol, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_operands(symbol, a, b);
}

int64_t text_size(const Value& value) {
  return static_cast<int64_t>(value.as_string().size());
}

int64_t floor_quotient(int64_t a, int64_t b) {
  if (a == INT64_MIN && b == -1) fail_overflow();
  const int64_t quotient = a / b;
  return quotient - static_cast<int64_t>(a % b != 0 && (a < 0) != (b < 0));
}

// Python's float %: the result has the divisor's sign.
double float_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  return rest != 0.0 && (rest < 0) != (b < 0) ? rest + b : rest == 0.0 ? std::copysign(0.0, b) : rest;
}

double float_floor_quotient(double a, double b) {
  const double quotient = (a - float_modulo(a, b)) / b;
  if (quotient == 0.0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1.0 : floor;
}

Value repeat(const Value& value, int64_t count, Budget& budget) {
  count = std::max<int64_t>(count, 0);
  const Sequence* sequence = value.as_sequence();
  const int64_t unit = sequence == nullptr ? text_size(value) : static_cast<int64_t>(sequence->items.size()) * 32;
  int64_t total = 0;
  if (__builtin_mul_overflow(unit, count, &total)) fail_overflow();
  budget.charge(total);
  if (unit == 0) return value;
  if (sequence == nullptr) {
    std::string out;
    out.reserve(static_cast<size_t>(total));
    for (int64_t i = 0; i < count; ++i) out += value.as_string();
    return out;
  }
  Sequence out;
  out.kind = sequence->kind;
  for (int64_t i = 0; i < count; ++i) out.items.insert(out.items.end(), sequence->items.begin(), sequence->items.end());
  return Value::sequence(std::move(out));
}

bool is_repeatable(const Value& value) {
  const Sequence* sequence = value.as_sequence();
  return value.is_string() || (sequence != nullptr && sequence->kind <= SequenceKind::kTuple);
}

// -1, 0 or 1; 2 if either is not a number (a NaN).
int compare_numbers(const Value& a, const Value& b) {
  const long double left = a.is_float() ? a.as_float() : static_cast<long double>(a.as_int());
  const long double right = b.is_float() ? b.as_float() : static_cast<long double>(b.as_int());
  if (left < right) return -1;
  if (left > right) return 1;
  return left == right ? 0 : 2;
}

std::string missing_element(const Value& object, const Value& key, Budget& budget) {
  const std::string type = object.is_none() ? "None" : object.type_name() + " object";
  if (key.is_string()) return fmt::format("'{}' has no attribute {}", type, string_repr(key.as_string()));
  return fmt::format("{} has no element {}", type, to_repr(key, budget));
}

// obj[key] in Python, or null where it raises TypeError or LookupError.
std::unique_ptr<Value> subscript(const Value& object, const Value& key, Budget& budget) {
  if (const Dict* dict = object.as_dict()) {
    if (key.as_dict() != nullptr || (key.as_sequence() != nullptr && key.as_sequence()->kind != SequenceKind::kTuple)) {
      return nullptr;
    }
    const Value* found = dict->find(key);
    return found == nullptr ? nullptr : std::make_unique<Value>(*found);
  }
  if (!key.is_int()) return nullptr;
  int64_t index = key.as_int();
  if (const Sequence* sequence = object.as_sequence(); sequence != nullptr && sequence->indexable()) {
    const auto size = static_cast<int64_t>(sequence->items.size());
    if (index < 0) index += size;
    if (index < 0 || index >= size) return nullptr;
    return std::make_unique<Value>(sequence->items[static_cast<size_t>(index)]);
  }
  if (object.is_string()) {
    const std::string& text = object.as_string();
    budget.charge(text_size(object));
    if (index < 0) index += static_cast<int64_t>(character_count(text));
    if (index < 0) return nullptr;
    const size_t start = byte_offset(text, static_cast<size_t>(index));
    if (start == text.size()) return nullptr;
    return std::make_unique<Value>(
        object.piece({text.data() + start, read_utf8_unit(std::string_view(text).substr(start)).length}));
  }
  return nullptr;
}

TracedText escape_html(const Value& value, Budget& budget) {
  TracedText text = value.as_text();
  for (const auto& [from, to] :
       {std::pair{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}}) {
    text = replace_text(text, from, TracedText(to), -1, budget);
  }
  return text;
}

}  // namespace

int64_t require_int(const Value& value, const char* what) {
  require_defined(value);
  if (!value.is_int()) throw Failure(fmt::format("{} must be an integer, not '{}'", what, value.type_name()));
  return value.as_int();
}

const std::string& require_string(const Value& value, const char* what) {
  require_defined(value);
  if (!value.is_string()) throw Failure(fmt::format("{} must be a text, not '{}'", what, value.type_name()));
  return value.as_string();
}

Value add(const Value& a, const Value& b, Budget& budget) {
  if (a.is_int() && b.is_int()) {
    int64_t sum = 0;
    if (__builtin_add_overflow(a.as_int(), b.as_int(), &sum)) fail_overflow();
    return sum;
  }
  if (a.is_number() && b.is_number()) return a.as_float() + b.as_float();
  if (a.is_string() && b.is_string()) {
    budget.charge(text_size(a) + text_size(b));
    const bool is_markup = a.as_text().is_markup() || b.as_text().is_markup();
    TracedText sum;
    for (const Value* part : {&a, &b}) {
      sum.append(is_markup && !part->as_text().is_markup() ? escape_html(*part, budget) : part->as_text());
    }
    sum.set_markup(is_markup);
    return sum;
  }
  const Sequence* left = a.as_sequence();
  const Sequence* right = b.as_sequence();
  if (left != nullptr && right != nullptr && left->kind == right->kind && left->kind <= SequenceKind::kTuple) {
    budget.charge(static_cast<int64_t>(left->items.size() + right->items.size()) * 32);
    Sequence sum;
    sum.kind = left->kind;
    sum.items = left->items;
    sum.items.insert(sum.items.end(), right->items.begin(), right->items.end());
    return Value::sequence(std::move(sum));
  }
  require_defined(b);
  if (a.is_string()) {
    throw Failure(fmt::format("can only concatenate str (not \"{}\") to str; use ~ or |string", b.type_name()));
  }
  fail_operands("+", a, b);
}

Value subtract(const Value& a, const Value& b) {
  require_numbers("-", a, b);
  if (a.is_float() || b.is_float()) return a.as_float() - b.as_float();
  int64_t difference = 0;
  if (__builtin_sub_overflow(a.as_int(), b.as_int(), &difference)) fail_overflow();
  return difference;
}

Value multiply(const Value& a, const Value& b, Budget& budget) {
  if (is_repeatable(a) && b.is_int()) return repeat(a, b.as_int(), budget);
  if (is_repeatable(b) && a.is_int()) return repeat(b, a.as_int(), budget);
  require_numbers("*", a, b);
  if (a.is_float() || b.is_float()) return a.as_float() * b.as_float();
  int64_t product = 0;
  if (__builtin_mul_overflow(a.as_int(), b.as_int(), &product)) fail_overflow();
  return product;
}

Value divide(const Value& a, const Value& b) {
  require_numbers("/", a, b);
  if (b.as_float() == 0.0) throw Failure("division by zero");
  return a.as_float() / b.as_float();
}

Value floor_divide(const Value& a, const Value& b) {
  require_numbers("//", a, b);
  if (b.as_float() == 0.0) throw Failure("integer division or modulo by zero");
  if (a.is_float() || b.is_float()) return float_floor_quotient(a.as_float(), b.as_float());
  return floor_quotient(a.as_int(), b.as_int());
}

Value modulo(const Value& a, const Value& b) {
  if (a.is_string()) throw Failure("formatting with % is not supported; join the parts with ~");
  require_numbers("%", a, b);
  if (b.as_float() == 0.0) throw Failure("integer modulo by zero");
  if (a.is_float() || b.is_float()) return float_modulo(a.as_float(), b.as_float());
  if (b.as_int() == -1) return 0;
  return a.as_int() - floor_quotient(a.as_int(), b.as_int()) * b.as_int();
}

Value power(const Value& a, const Value& b) {
  require_numbers("**", a, b);
  if (a.is_int() && b.is_int() && b.as_int() >= 0) {
    int64_t result = 1;
    int64_t base = a.as_int();
    for (int64_t exponent = b.as_int(); exponent > 0; exponent >>= 1) {
      if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
      if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return result;
  }
  const double base = a.as_float();
  const double exponent = b.as_float();
  if (base == 0.0 && exponent < 0) throw Failure("0.0 cannot be raised to a negative power");
  if (base < 0 && exponent != std::floor(exponent)) {
    throw Failure("a negative number to a fractional power is complex; complex numbers are not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && !std::isinf(base) && !std::isinf(exponent)) throw Failure("numerical result out of range");
  return result;
}

Value negate(const Value& a) {
  require_defined(a);
  if (a.is_float()) return -a.as_float();
  if (!a.is_int()) throw Failure(fmt::format("bad operand type for unary -: '{}'", a.type_name()));
  if (a.as_int() == INT64_MIN) fail_overflow();
  return -a.as_int();
}

Value positive(const Value& a) {
  require_defined(a);
  if (a.is_float()) return a;
  if (!a.is_int()) throw Failure(fmt::format("bad operand type for unary +: '{}'", a.type_name()));
  return a.as_int();
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.charge(32);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.is_string() && b.is_string()) {
    budget.charge(std::min(text_size(a), text_size(b)));
    return a.as_string() == b.as_string();
  }
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (const Sequence* left = a.as_sequence(), *right = b.as_sequence(); left != nullptr && right != nullptr) {
    if (left->kind != right->kind || left->items.size() != right->items.size()) return false;
    return std::equal(left->items.begin(), left->items.end(), right->items.begin(),
                      [&](const Value& x, const Value& y) { return equal(x, y, budget); });
  }
  if (const Dict* left = a.as_dict(), *right = b.as_dict(); left != nullptr && right != nullptr) {
    if (left->size() != right->size()) return false;
    return std::all_of(left->items().begin(), left->items().end(), [&](const auto& item) {
      const Value* other = right->find(item.first);
      return other != nullptr && equal(item.second, *other, budget);
    });
  }
  return a.as_object() != nullptr && a.as_object() == b.as_object();
}

bool less_than(const Value& a, const Value& b, Budget& budget) {
  budget.charge(32);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == -1;
  if (a.is_string() && b.is_string()) {
    budget.charge(std::min(text_size(a), text_size(b)));
    return a.as_string() < b.as_string();
  }
  const Sequence* left = a.as_sequence();
  const Sequence* right = b.as_sequence();
  if (left == nullptr || right == nullptr || left->kind != right->kind || left->kind > SequenceKind::kTuple) {
    require_defined(a);
    require_defined(b);
    throw Failure(fmt::format("values of type '{}' and '{}' have no order", a.type_name(), b.type_name()));
  }
  const size_t common = std::min(left->items.size(), right->items.size());
  for (size_t i = 0; i < common; ++i) {
    if (!equal(left->items[i], right->items[i], budget)) return less_than(left->items[i], right->items[i], budget);
  }
  return left->items.size() < right->items.size();
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (container.is_string()) {
    if (!item.is_string()) {
      throw Failure(fmt::format("'in <string>' requires string as left operand, not {}", item.type_name()));
    }
    budget.charge(text_size(container) + text_size(item));
    const std::string& text = container.as_string();
    return memmem(text.data(), text.size(), item.as_string().data(), item.as_string().size()) != nullptr;
  }
  if (const Dict* dict = container.as_dict()) return dict->find(item) != nullptr;
  if (const Sequence* sequence = container.as_sequence()) {
    return std::any_of(sequence->items.begin(), sequence->items.end(),
                       [&](const Value& element) { return equal(element, item, budget); });
  }
  if (auto* iterator = dynamic_cast<Iterator*>(container.as_object().get())) {
    while (const std::unique_ptr<Value> element = iterator->take_one()) {
      if (equal(*element, item, budget)) return true;
    }
    return false;
  }
  if (container.is_undefined()) return false;
  throw Failure(fmt::format("argument of type '{}' is not iterable", container.type_name()));
}

int64_t length_of(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) return static_cast<int64_t>(character_count(value.as_string()));
  if (const Sequence* sequence = value.as_sequence()) return static_cast<int64_t>(sequence->items.size());
  if (const Dict* dict = value.as_dict()) return static_cast<int64_t>(dict->size());
  throw Failure(fmt::format("object of type '{}' has no len()", value.type_name()));
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.as_sequence() != nullptr || value.as_dict() != nullptr ||
         dynamic_cast<Iterator*>(value.as_object().get()) != nullptr;
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  if (value.is_undefined()) return {};
  if (const Sequence* sequence = value.as_sequence()) {
    budget.charge(static_cast<int64_t>(sequence->items.size()) * 32);
    return sequence->items;
  }
  std::vector<Value> items;
  if (const Dict* dict = value.as_dict()) {
    budget.charge(static_cast<int64_t>(dict->size()) * 32);
    for (const auto& item : dict->items()) items.push_back(item.first);
    return items;
  }
  if (value.is_string()) {
    budget.charge(text_size(value) * 64);
    std::string_view text = value.as_string();
    while (!text.empty()) {
      const size_t length = read_utf8_unit(text).length;
      items.push_back(value.piece(text.substr(0, length)));
      text.remove_prefix(length);
    }
    return items;
  }
  if (auto* iterator = dynamic_cast<Iterator*>(value.as_object().get())) return iterator->take_all();
  throw Failure(fmt::format("'{}' object is not iterable", value.type_name()));
}

Value get_attribute(const Value& object, const std::string& name, Budget& budget) {
  require_defined(object);
  if (std::unique_ptr<Value> found = python_attribute(object, name, budget)) return *found;
  if (const std::unique_ptr<Value> found = subscript(object, Value(name), budget)) return *found;
  return Value::undefined(missing_element(object, Value(name), budget));
}

Value get_item(const Value& object, const Value& key, Budget& budget) {
  require_defined(object);
  if (const std::unique_ptr<Value> found = subscript(object, key, budget)) return *found;
  if (key.is_string()) {
    if (std::unique_ptr<Value> found = python_attribute(object, key.as_string(), budget)) return *found;
  }
  return Value::undefined(missing_element(object, key, budget));
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step, Budget& budget) {
  require_defined(object);
  const Sequence* sequence = object.as_sequence();
  const auto is_bound = [](const Value& value) { return value.is_none() || value.is_int(); };
  if ((!object.is_string() && (sequence == nullptr || !sequence->indexable())) || !is_bound(start) || !is_bound(stop) ||
      !is_bound(step)) {
    throw Failure(
        fmt::format("'{}' object cannot be sliced so; a text, list or tuple can, by integers", object.type_name()));
  }
  const int64_t stride = step.is_none() ? 1 : step.as_int();
  if (stride == 0) throw Failure("slice step cannot be zero");
  std::u32string characters;
  if (object.is_string()) {
    budget.charge(text_size(object) * 4);
    characters = decode_utf8(object.as_string());
  }
  const auto size = static_cast<int64_t>(sequence == nullptr ? characters.size() : sequence->items.size());
  // Python clamps a bound into [0, size] for a positive step and [-1, size - 1] for a negative one.
  const auto bound = [&](const Value& value, int64_t absent) {
    if (value.is_none()) return absent;
    int64_t index = value.as_int();
    if (index < 0) index = index < -size ? -1 : index + size;
    return stride > 0 ? std::clamp<int64_t>(index, 0, size) : std::clamp<int64_t>(index, -1, size - 1);
  };
  const int64_t first = bound(start, stride > 0 ? 0 : size - 1);
  const int64_t end = bound(stop, stride > 0 ? size : -1);
  std::vector<int64_t> picked;
  for (int64_t i = first; stride > 0 ? i < end : i > end;) {
    picked.push_back(i);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  budget.charge(static_cast<int64_t>(picked.size()) * 32);
  if (object.is_string()) {
    std::u32string out;
    for (int64_t i : picked) out += characters[static_cast<size_t>(i)];
    if (stride == 1) {
      const std::string_view text = object.as_string();
      const size_t begin = byte_offset(text, static_cast<size_t>(first));
      return object.piece(text.substr(begin, encode_utf8(out).size()));
    }
    return Value::derived(encode_utf8(out), object);
  }
  Sequence out;
  out.kind = sequence->kind;
  for (int64_t i : picked) out.items.push_back(sequence->items[static_cast<size_t>(i)]);
  if (sequence->kind == SequenceKind::kRange) {
    out.range_start = sequence->range_start + first * sequence->range_step;
    out.range_stop = sequence->range_start + end * sequence->range_step;
    out.range_step = sequence->range_step * stride;
  }
  return Value::sequence(std::move(out));
}

}  // namespace deeptitan::jinja

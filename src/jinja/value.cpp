#include "jinja/value.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "jinja/text.h"

namespace deeptitan::jinja {
namespace {

constexpr size_t kMaxKeyBytes = 1 << 20;

// One string for all keys that Python holds equal. Each part says its own length, so that tuples cannot collide.
std::string hash_key(const Value& key) {
  if (key.is_string()) return "s" + key.as_string();
  if (key.is_int()) return fmt::format("i{}", key.as_int());
  if (key.is_float()) {
    const double value = key.as_float();
    if (value == std::floor(value) && std::abs(value) < 9.2e18) return fmt::format("i{}", static_cast<int64_t>(value));
    return fmt::format("f{}", value);
  }
  if (key.is_none()) return "n";
  if (key.is_undefined()) return "u";
  if (const Sequence* sequence = key.as_sequence(); sequence != nullptr && sequence->kind == SequenceKind::kTuple) {
    std::string joined = "t";
    for (const Value& item : sequence->items) {
      const std::string part = hash_key(item);
      joined += fmt::format("{}:", part.size()) + part;
      if (joined.size() > kMaxKeyBytes) throw Failure("a tuple used as a key is too large; use a string");
    }
    return joined;
  }
  if (const auto& object = key.as_object()) return fmt::format("o{}", static_cast<const void*>(object.get()));
  throw Failure(fmt::format("unhashable type: '{}'", key.type_name()));
}

// The first traced text in a value, or null.
const Origin* first_origin(const Value& value) {
  if (value.is_string()) return value.as_text().origins().empty() ? nullptr : &value.as_text().origins().front();
  if (const Sequence* sequence = value.as_sequence()) {
    for (const Value& item : sequence->items) {
      if (const Origin* found = first_origin(item)) return found;
    }
  }
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [key, item] : dict->items()) {
      if (const Origin* found = first_origin(item)) return found;
    }
  }
  return nullptr;
}

int checked_depth(int deepest_item) {
  if (deepest_item >= kMaxValueDepth) {
    throw Failure(fmt::format("lists and dicts are nested more than {} deep; flatten them", kMaxValueDepth));
  }
  return deepest_item + 1;
}

}  // namespace

void Budget::charge(int64_t work) {
  if (work > limits_.max_work - work_) {
    throw Failure(fmt::format("the template does more work than the limit of {}; it may not end", limits_.max_work));
  }
  work_ += work;
}

Budget::Level::Level(Budget& budget) : budget_(budget) {
  if (budget_.nesting_ >= budget_.limits_.max_nesting) {
    throw Failure(
        fmt::format("expressions, blocks and macro calls are nested more than {} deep", budget_.limits_.max_nesting));
  }
  ++budget_.nesting_;
}

void Budget::charge_iteration() {
  if (++iterations_ > limits_.max_loop_iterations) {
    throw Failure(
        fmt::format("loops run more than {} times in all; the template may not end", limits_.max_loop_iterations));
  }
}

void Budget::charge_output(int64_t bytes) {
  output_bytes_ += bytes;
  if (output_bytes_ > limits_.max_output_bytes) {
    throw Failure(fmt::format("the output is longer than the limit of {} bytes", limits_.max_output_bytes));
  }
}

Value::Value(TracedText text) : data_(std::make_shared<const TracedText>(std::move(text))) {}

Value Value::traced(std::string text, int32_t source) {
  const size_t size = text.size();
  return TracedText(std::move(text), {{0, size, source, 0}});
}

Value Value::derived(std::string bytes, const Value& input) {
  const Origin* origin = first_origin(input);
  if (origin == nullptr) return bytes;
  const size_t size = bytes.size();
  return TracedText(std::move(bytes), {{0, size, origin->source, Origin::kDerived}});
}

Value Value::piece(std::string_view view) const {
  TracedText out;
  out.append(as_text(), static_cast<size_t>(view.data() - as_string().data()), view.size());
  out.set_markup(as_text().is_markup());
  return out;
}

Value Value::undefined(std::string message) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(message))};
  return value;
}

Value Value::sequence(Sequence sequence) {
  int deepest = 0;
  for (const Value& item : sequence.items) deepest = std::max(deepest, item.depth());
  sequence.depth = checked_depth(deepest);
  Value value;
  value.data_ = std::make_shared<const Sequence>(std::move(sequence));
  return value;
}

Value Value::list(std::vector<Value> items) {
  Sequence made;
  made.items = std::move(items);
  return sequence(std::move(made));
}

Value Value::tuple(std::vector<Value> items) {
  Sequence made;
  made.kind = SequenceKind::kTuple;
  made.items = std::move(items);
  return sequence(std::move(made));
}

Value Value::dict(Dict dict) {
  Value value;
  value.data_ = std::make_shared<const Dict>(std::move(dict));
  return value;
}

const Sequence* Value::as_sequence() const {
  const auto* held = std::get_if<std::shared_ptr<const Sequence>>(&data_);
  return held == nullptr ? nullptr : held->get();
}

const Dict* Value::as_dict() const {
  const auto* held = std::get_if<std::shared_ptr<const Dict>>(&data_);
  return held == nullptr ? nullptr : held->get();
}

const std::shared_ptr<Object>& Value::as_object() const {
  static const std::shared_ptr<Object> none;
  const auto* held = std::get_if<std::shared_ptr<Object>>(&data_);
  return held == nullptr ? none : *held;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_int()) return as_int() != 0;
  if (is_float()) return as_float() != 0.0;
  if (is_string()) return !as_string().empty();
  if (const Sequence* sequence = as_sequence()) return !sequence->items.empty();
  if (const Dict* dict = as_dict()) return dict->size() != 0;
  return true;
}

std::string Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (as_dict() != nullptr) return "dict";
  if (const Sequence* sequence = as_sequence()) {
    constexpr const char* kNames[] = {"list", "tuple", "range", "dict_keys", "dict_values", "dict_items"};
    return kNames[static_cast<int>(sequence->kind)];
  }
  return as_object()->type_name();
}

int Value::depth() const {
  if (const Sequence* sequence = as_sequence()) return sequence->depth;
  if (const Dict* dict = as_dict()) return dict->depth();
  return 0;
}

const Value* Dict::find(const Value& key) const {
  const auto found = index_.find(hash_key(key));
  return found == index_.end() ? nullptr : &items_[found->second].second;
}

void Dict::set(const Value& key, Value value) {
  depth_ = std::max(depth_, checked_depth(std::max(key.depth(), value.depth())));
  const auto [place, added] = index_.try_emplace(hash_key(key), items_.size());
  if (added) {
    items_.emplace_back(key, std::move(value));
  } else {
    items_[place->second].second = std::move(value);
  }
}

std::string Object::text(Budget& /*budget*/) const {
  throw Failure(fmt::format("a value of type '{}' cannot be printed; print what it gives instead", type_name()));
}

std::unique_ptr<Value> Object::attribute(const std::string& /*name*/, Budget& /*budget*/) {
  return nullptr;
}

Value Object::call(Interpreter& /*interpreter*/, const Arguments& /*arguments*/) {
  throw Failure(fmt::format("'{}' object is not callable", type_name()));
}

std::vector<Value> Iterator::take_all() {
  std::vector<Value> rest(std::make_move_iterator(items_.begin() + static_cast<std::ptrdiff_t>(next_)),
                          std::make_move_iterator(items_.end()));
  items_.clear();
  next_ = 0;
  return rest;
}

std::unique_ptr<Value> Iterator::take_one() {
  if (next_ == items_.size()) return nullptr;
  return std::make_unique<Value>(items_[next_++]);
}

std::string Namespace::text(Budget& budget) const {
  return "<Namespace " + to_repr(Value::dict(attributes_), budget) + ">";
}

std::unique_ptr<Value> Namespace::attribute(const std::string& name, Budget& /*budget*/) {
  const Value* found = attributes_.find(Value(name));
  return found == nullptr ? nullptr : std::make_unique<Value>(*found);
}

}  // namespace deeptitan::jinja

#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "jinja/traced_text.h"

namespace deeptitan::jinja {

/// What goes wrong inside a template, before the interpreter adds the template's name and the line.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// How much one rendering may do before it is stopped, so that a hostile template ends in an error.
struct Limits {
  int max_nesting = 400;                    // expressions, statements and macro calls inside one another
  int64_t max_loop_iterations = 1'000'000;  // over all loops
  int64_t max_work = int64_t{1} << 28;      // bytes of text read or made, plus 16 a step and 32 a list element
  int64_t max_output_bytes = int64_t{64} << 20;
};

/// Lists, tuples and dicts inside one another deeper than this are refused (they are walked recursively).
constexpr int kMaxValueDepth = 200;

/// Counts the work of one rendering down. Every operation that makes or reads text or lists charges it first, which
/// bounds both the time and the memory of a rendering.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}
  /// Throws Failure once more than Limits::max_work has been charged.
  void charge(int64_t work);
  void charge_iteration();
  void charge_output(int64_t bytes);

  /// Counts one level of recursion while it lives.
  class Level {
   public:
    explicit Level(Budget& budget);
    ~Level() { --budget_.nesting_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Budget& budget_;
  };

 private:
  Limits limits_;
  int nesting_ = 0;
  int64_t work_ = 0;
  int64_t iterations_ = 0;
  int64_t output_bytes_ = 0;
};

class Value;
struct Sequence;
class Dict;
class Object;

/// What a missing variable, attribute or element gives: prints as nothing, and fails when it is used
/// (jinja2.Undefined). The message names what was missing.
struct Undefined {
  std::shared_ptr<const std::string> message;
};

struct None {};

/// A value of the template language, as Python sees it. Cheap to copy; text, lists and dicts are shared and immutable.
class Value {
 public:
  Value() : data_(None{}) {}
  // Constrained, so that no pointer turns into a bool by accident.
  template <typename T>
  requires std::same_as<T, bool> Value(T value) : data_(value) {}
  template <typename T>
  requires(std::integral<T> && !std::same_as<T, bool>) Value(T value) : data_(static_cast<int64_t>(value)) {}
  Value(double value) : data_(value) {}
  Value(std::string text) : Value(TracedText(std::move(text))) {}
  Value(TracedText text);
  Value(const char* text) : Value(std::string(text)) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}

  static Value undefined(std::string message);
  /// A text that leaves its number on what is made of it (TracedText::origins).
  static Value traced(std::string text, int32_t source);
  /// `bytes` made from `input`: what came from a traced text in it is said of all of it.
  static Value derived(std::string bytes, const Value& input);
  /// Throws Failure beyond kMaxValueDepth, as tuple and dict do.
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value sequence(Sequence sequence);
  static Value dict(Dict dict);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  /// True for bool too: Python's bool is an int.
  bool is_int() const { return is_bool() || std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const TracedText>>(data_); }

  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const { return is_bool() ? static_cast<int64_t>(as_bool()) : std::get<int64_t>(data_); }
  /// Of any number.
  double as_float() const { return is_float() ? std::get<double>(data_) : static_cast<double>(as_int()); }
  const std::string& as_string() const { return as_text().bytes(); }
  const TracedText& as_text() const { return *std::get<std::shared_ptr<const TracedText>>(data_); }
  /// A piece of this text, given by a view into as_string().
  Value piece(std::string_view view) const;
  const std::string& undefined_message() const { return *std::get<Undefined>(data_).message; }

  /// Null if the value is of another type.
  const Sequence* as_sequence() const;
  const Dict* as_dict() const;
  const std::shared_ptr<Object>& as_object() const;

  /// Python's bool(value).
  bool truthy() const;
  /// Python's name of the type: "str", "int", "list", ...
  std::string type_name() const;
  /// How many lists, tuples and dicts stand inside one another; 0 for anything else.
  int depth() const;

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const TracedText>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, std::shared_ptr<Object>>
      data_;
};

enum class SequenceKind : uint8_t { kList, kTuple, kRange, kDictKeys, kDictValues, kDictItems };

/// A list, or one of the types that are iterated like it.
struct Sequence {
  SequenceKind kind = SequenceKind::kList;
  std::vector<Value> items;
  int64_t range_start = 0, range_stop = 0, range_step = 1;  // of a range, for printing it
  int depth = 1;

  /// Lists, tuples and ranges can be indexed; views of a dict cannot.
  bool indexable() const { return kind <= SequenceKind::kRange; }
};

/// A dict in insertion order; keys are compared as Python does (1, 1.0 and True are one key).
class Dict {
 public:
  /// The value of `key`, or null. Throws Failure if a key of that type cannot be hashed.
  const Value* find(const Value& key) const;
  /// Adds or replaces.
  void set(const Value& key, Value value);
  const std::vector<std::pair<Value, Value>>& items() const { return items_; }
  size_t size() const { return items_.size(); }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<Value, Value>> items_;
  std::unordered_map<std::string, size_t> index_;
  int depth_ = 1;
};

/// Positional and keyword arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

class Interpreter;

/// A value with identity: a macro, a function, a bound method, a namespace, a loop, an iterator.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string type_name() const = 0;
  /// str(object). The default is a failure: Python would print an address.
  virtual std::string text(Budget& budget) const;
  /// The attribute, or null if there is none.
  virtual std::unique_ptr<Value> attribute(const std::string& name, Budget& budget);
  virtual Value call(Interpreter& interpreter, const Arguments& arguments);
};

/// What map, select and their kin give: its items can be taken once.
class Iterator : public Object {
 public:
  explicit Iterator(std::vector<Value> items, std::string type = "generator")
      : items_(std::move(items)), type_(std::move(type)) {}
  std::string type_name() const override { return type_; }
  /// All items not yet taken.
  std::vector<Value> take_all();
  /// The next item, or null at the end.
  std::unique_ptr<Value> take_one();

 private:
  std::vector<Value> items_;
  std::string type_;
  size_t next_ = 0;
};

/// namespace(): the one value that `set` can change.
class Namespace : public Object {
 public:
  explicit Namespace(Dict attributes) : attributes_(std::move(attributes)) {}
  std::string type_name() const override { return "Namespace"; }
  std::string text(Budget& budget) const override;
  std::unique_ptr<Value> attribute(const std::string& name, Budget& budget) override;
  void set(const std::string& name, Value value) { attributes_.set(Value(name), std::move(value)); }
  void clear() { attributes_ = Dict(); }

 private:
  Dict attributes_;
};

}  // namespace deeptitan::jinja

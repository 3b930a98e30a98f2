#include <nlohmann/json.hpp>

#include "core/error.h"
#include "jinja/template.h"

namespace deeptitan::jinja {
namespace {

// Builds the value while the parser reads, so that the order of keys is the file's.
class ValueBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ValueBuilder(std::string_view source) : source_(source) {}
  Value take() { return std::move(result_); }

  bool null() override { return add({}); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override {
    DT_CHECK(value <= static_cast<uint64_t>(INT64_MAX), "{}: the number {} does not fit 64 bits with a sign", source_,
             value);
    return add(static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string& /*text*/) override { return add(value); }
  bool string(std::string& text) override { return add(std::move(text)); }
  bool binary(nlohmann::json::binary_t& /*bytes*/) override { return false; }
  bool start_object(size_t /*size*/) override { return open(true); }
  bool start_array(size_t /*size*/) override { return open(false); }
  bool key(std::string& name) override {
    open_.back().key = std::move(name);
    return true;
  }
  bool end_object() override {
    Dict dict = std::move(open_.back().dict);
    open_.pop_back();
    return add(Value::dict(std::move(dict)));
  }
  bool end_array() override {
    std::vector<Value> items = std::move(open_.back().items);
    open_.pop_back();
    return add(Value::list(std::move(items)));
  }
  bool parse_error(size_t position, const std::string& /*last*/, const nlohmann::json::exception& error) override {
    fail("{}: not JSON at byte {}: {}", source_, position, error.what());
  }

 private:
  struct Open {
    bool is_object = false;
    std::string key;
    Dict dict;
    std::vector<Value> items;
  };

  bool open(bool is_object) {
    DT_CHECK(open_.size() < kMaxValueDepth, "{}: JSON nested more than {} deep", source_, kMaxValueDepth);
    open_.emplace_back();
    open_.back().is_object = is_object;
    return true;
  }

  bool add(Value value) {
    if (open_.empty()) {
      result_ = std::move(value);
    } else if (open_.back().is_object) {
      open_.back().dict.set(Value(open_.back().key), std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::string_view source_;
  std::vector<Open> open_;
  Value result_;
};

}  // namespace

Value value_from_json(std::string_view json, std::string_view source) {
  ValueBuilder builder(source);
  nlohmann::json::sax_parse(json, &builder);
  return builder.take();
}

}  // namespace deeptitan::jinja

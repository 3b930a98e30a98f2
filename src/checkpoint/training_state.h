#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <variant>

namespace deeptitan {

/// The small values of a training state by name: step, tokens, position in the data, the run's configuration as text,
/// counters of random numbers. Reading one that is missing or of another type is an Error that names it and the file.
class TrainingStateMetadata {
 public:
  TrainingStateMetadata() = default;
  /// Parses a JSON object of numbers and texts; `file` is its name in errors.
  static TrainingStateMetadata parse(std::string_view json, std::string_view file);
  /// The JSON object; reals are written with as many digits as they need to come back with the same bits.
  std::string dump() const;

  void set_integer(const std::string& key, int64_t value) { values_[key] = value; }
  /// Throws Error if the value is not finite.
  void set_real(const std::string& key, double value);
  void set_text(const std::string& key, std::string value) { values_[key] = std::move(value); }

  bool contains(std::string_view key) const { return values_.find(key) != values_.end(); }
  int64_t integer(std::string_view key) const;
  double real(std::string_view key) const;
  const std::string& text(std::string_view key) const;

 private:
  using Value = std::variant<int64_t, double, std::string>;
  const Value& at(std::string_view key) const;

  std::map<std::string, Value, std::less<>> values_;
  std::string file_ = "training state";
};

/// A checkpoint's `state.json`: where the run is, beside the model's and the optimizer's tensors.
void write_training_state(const std::filesystem::path& directory, const TrainingStateMetadata& metadata);
TrainingStateMetadata read_training_state(const std::filesystem::path& directory);

}  // namespace deeptitan

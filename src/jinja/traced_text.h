#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan::jinja {

/// Bytes begin to end (not included) of a text stand in the input text numbered `source`, from byte `offset` of it on;
/// kDerived for `offset` where they were made from that input in a way that keeps no places (upper case, JSON). An
/// empty input leaves an empty range where it was put.
struct Origin {
  static constexpr size_t kDerived = static_cast<size_t>(-1);
  size_t begin = 0;
  size_t end = 0;
  int32_t source = 0;
  size_t offset = 0;
};

/// A text that knows which of its bytes came from which input (Value::traced), in order of place. What a template
/// writes itself has no origin.
class TracedText {
 public:
  TracedText() = default;
  explicit TracedText(std::string bytes, std::vector<Origin> origins = {})
      : bytes_(std::move(bytes)), origins_(std::move(origins)) {}

  const std::string& bytes() const { return bytes_; }
  const std::vector<Origin>& origins() const { return origins_; }

  /// What `safe` gives (markupsafe.Markup): text that is added to it with + is escaped for HTML first.
  bool is_markup() const { return is_markup_; }
  void set_markup(bool is_markup) { is_markup_ = is_markup; }

  void append(std::string_view bytes) { bytes_ += bytes; }
  void append(const TracedText& text) { append(text, 0, text.bytes_.size()); }
  /// Bytes begin to begin + size of `text`.
  void append(const TracedText& text, size_t begin, size_t size);

 private:
  std::string bytes_;
  std::vector<Origin> origins_;
  bool is_markup_ = false;
};

}  // namespace deeptitan::jinja

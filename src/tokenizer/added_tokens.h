#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan {

/// A token that is found in the text as it stands, before any other rule applies.
struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only between characters that are not part of a word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space after it along
  bool normalized = true;    // looked for in the normalised text
  bool special = false;      // of no interest to a reader: left out of decoded text where asked
};

/// Finds added tokens in a text: the leftmost first, the longest of those that start there.
class AddedTokenMatcher {
 public:
  /// A stretch of the text: an added token, or what lies between (token null).
  struct Part {
    size_t begin;
    size_t end;
    const AddedToken* token;
  };

  AddedTokenMatcher() { can_start_.fill(false); }

  /// Looks for `tokens` as they are spelt in `patterns`, one for each token. The tokens must outlive the matcher.
  AddedTokenMatcher(const std::vector<const AddedToken*>& tokens, const std::vector<std::string>& patterns);

  /// Appends the parts of `text`. Special tokens count only if `parse_special_tokens`.
  void split(std::string_view text, bool parse_special_tokens, std::vector<Part>& parts) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> children;  // sorted by byte
    const AddedToken* token = nullptr;
  };

  std::vector<Node> nodes_;
  std::array<bool, 256> can_start_;
};

}  // namespace deeptitan

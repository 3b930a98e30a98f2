#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/token_choice.h"

namespace deeptitan {

/// What is wanted behind a sequence of a batch, and its next token where that is chosen where the logits lie.
struct NextToken {
  bool wanted = true;                      // false: nothing, as in the midst of a prompt
  std::optional<TokenChoice> choice = {};  // left out: the caller looks at the logits
  std::span<const uint32_t> earlier = {};  // where that has a penalty: the bits of earlier tokens (choice_words), those
                                           // of words that are not there unset
  int32_t token = -1;                      // that was chosen; -1: none, and the logits are there to be looked at
};

/// The bits of the tokens that a sequence has had, which grow with it.
class EarlierTokens {
 public:
  /// Of all of `sequence`, which begins with what it was before. Valid until the next call.
  std::span<const uint32_t> of(std::span<const int32_t> sequence) {
    for (const int32_t token : sequence.subspan(tokens_)) {
      const auto word = static_cast<size_t>(token / 32);
      if (word >= words_.size()) words_.resize(word + 1);
      words_[word] |= 1u << (token % 32);
    }
    tokens_ = sequence.size();
    return words_;
  }

 private:
  std::vector<uint32_t> words_;
  size_t tokens_ = 0;
};

}  // namespace deeptitan

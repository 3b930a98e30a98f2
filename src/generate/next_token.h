#pragma once

#include <cstdint>
#include <optional>

#include "kernels/token_choice.h"

namespace deeptitan {

/// What is wanted behind a sequence of a batch, and its next token where that is chosen where the logits lie.
struct NextToken {
  bool wanted = true;                 // false: nothing, as in the midst of a prompt
  std::optional<TokenChoice> choice;  // left out: the caller looks at the logits
  int32_t token = -1;                 // that was chosen; -1: none, and the logits are there to be looked at
};

}  // namespace deeptitan

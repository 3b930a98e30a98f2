#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// The tokens of a prompt: what the tokenizer's files put around a text stands there exactly once, also where the text
/// spells it. An empty prompt becomes one bos (or eos, where there is no bos). Throws a usage error where that leaves
/// nothing to start from.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

}  // namespace deeptitan

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace deeptitan {

/// Texts that are hard on a tokenizer (English, code, CJK, emoji, combining marks, control characters, digits, runs of
/// spaces, any code point, bytes that are not UTF-8, special tokens), the same as tests/golden/tokenizer_samples.py
/// makes.
std::vector<std::string> sample_texts(uint64_t seed, size_t count);

}  // namespace deeptitan

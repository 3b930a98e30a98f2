#pragma once

#include <string>
#include <string_view>

namespace deeptitan {

/// `text` (valid UTF-8) in Unicode's Normalization Form C, as PyPI tokenizers has it: its tables are those of Unicode
/// 9, so marks that came later are left where they stand.
std::string normalize_nfc(std::string_view text);

}  // namespace deeptitan

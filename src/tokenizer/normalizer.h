#pragma once

#include <string>
#include <string_view>

namespace deeptitan {

/// `text` (valid UTF-8) in Unicode's Normalization Form C.
std::string normalize_nfc(std::string_view text);

}  // namespace deeptitan

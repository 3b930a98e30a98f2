#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace deeptitan {

/// Why a text cannot be TOML, and where: a line counted from 1.
struct TomlFault {
  int64_t line;
  std::string reason;
};

/// What makes `text` no TOML before its grammar is looked at (TOML 1.0.0): bytes that are no UTF-8, control characters,
/// characters beyond ASCII outside of texts and comments, texts that do not end; and keys of more than 16 dots. Nothing
/// if there is no such thing. A byte order mark at the start is allowed.
std::optional<TomlFault> find_toml_fault(std::string_view text);

}  // namespace deeptitan

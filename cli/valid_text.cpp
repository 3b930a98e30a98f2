#include "valid_text.h"

#include <utility>

#include <fmt/format.h>

#include "core/log.h"
#include "core/utf8.h"

namespace deeptitan {

std::string valid_text(std::string text, std::string_view source) {
  if (is_valid_utf8(text)) return text;
  SanitizedText sanitized = utf8_sanitize(text);
  log_warning(fmt::format("{} is not UTF-8 throughout: {} ill-formed sequences read as U+FFFD", source,
                          sanitized.replaced_count));
  return std::move(sanitized.text);
}

}  // namespace deeptitan

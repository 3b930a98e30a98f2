#include "valid_text.h"

#include <utility>

#include <fmt/format.h>

#include "core/byte_order_mark.h"
#include "core/log.h"
#include "core/utf8.h"

namespace deeptitan {

void warn_of_replaced(std::string_view source, int64_t sequences) {
  if (sequences == 0) return;
  log_warning(fmt::format("{} is not UTF-8 throughout: {} ill-formed sequences read as U+FFFD", source, sequences));
}

std::string valid_text(std::string text, std::string_view source) {
  if (is_valid_utf8(text)) return text;
  SanitizedText sanitized = utf8_sanitize(text);
  warn_of_replaced(source, sanitized.replaced_count);
  return std::move(sanitized.text);
}

std::string valid_file_text(std::string_view text, std::string_view source) {
  return valid_text(std::string(without_byte_order_mark(text)), source);
}

}  // namespace deeptitan

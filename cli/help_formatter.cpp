#include "help_formatter.h"

#include <string>

#include <fmt/format.h>

namespace deeptitan {

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (option->get_type_size() == 0) return "";  // a flag
  const bool many = option->get_expected_max() == CLI::detail::expected_max_vector_size;
  return " " + option->get_type_name() + (many ? " ..." : "");
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  std::string meaning = option->get_description();
  if (option->get_required()) return meaning + " (required)";
  if (option->get_type_size() == 0 || option->get_default_str().empty()) return meaning;
  return fmt::format("{} (default: {})", meaning, option->get_default_str());
}

}  // namespace deeptitan

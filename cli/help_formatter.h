#pragma once

#include <CLI/CLI.hpp>

namespace deeptitan {

/// --help's lines: an option, what it takes, what it means, and then whether it is required or what its default is.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
};

}  // namespace deeptitan

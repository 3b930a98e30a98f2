#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/run_config.h"

// The table of all keys of a run file. The TOML parser, the command line, docs/config.md and the echo of a run's
// configuration read it and hold no list of their own.

namespace deeptitan {

/// A member that takes one of a few words.
struct ChoiceMember {
  std::span<const std::string_view> names;
  std::function<size_t()> get;      // index into names
  std::function<void(size_t)> set;  // takes such an index
};

/// A table such as [model.shape]: a JSON object held as text, and what its entries are.
struct TableMember {
  std::string* json;
  std::string_view entries;
};

using ConfigMember = std::variant<bool*, int64_t*, double*, std::string*, std::vector<std::string>*, ChoiceMember,
                                  TableMember, std::vector<TextSource>*>;

/// Values that a number may have: from `least` to `most`; `above` leaves out the first bound itself, `below` the
/// second.
struct NumberRange {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool above = false;
  bool below = false;

  bool contains(double value) const {
    return (above ? value > least : value >= least) && (below ? value < most : value <= most);
  }
};

/// One key of `Owner` (RunConfig, or TextSource for the keys of an element of data.sources).
template <typename Owner>
struct ConfigKey {
  std::string_view name;  // "training.steps"
  ConfigMember (*member)(Owner&);
  std::string_view unit;  // "steps", "tokens", ...; empty where there is none
  NumberRange range;
  bool allowed_on_resume;
  std::string_view doc;

  std::string_view section() const { return name.substr(0, name.find('.')); }
  std::string_view short_name() const { return name.substr(name.find('.') + 1); }
};

/// Every key of a run file, section by section.
std::span<const ConfigKey<RunConfig>> run_config_keys();

/// Every key of an element of data.sources.
std::span<const ConfigKey<TextSource>> text_source_keys();

/// What a key takes, as messages and docs/config.md say it: "a whole number of at least 1", "one of auto, bf16, fp32".
std::string expected_values(const ConfigMember& member, const NumberRange& range);

/// The member's value as TOML: 1e-08, "text", [{path = "a.txt"}].
std::string value_as_toml(const ConfigMember& member);

}  // namespace deeptitan

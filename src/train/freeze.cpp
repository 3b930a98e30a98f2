#include "train/freeze.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <fnmatch.h>

#include "config/nearest_name.h"
#include "core/error.h"

namespace deeptitan {

namespace {

constexpr size_t kNamesShown = 3;

/// The name with * for the numbers of its layer and expert: "model.layers.*.mlp.experts.*.up_proj.weight".
std::string kind_of(const std::string& name) {
  std::string kind;
  for (size_t at = 0; at < name.size();) {
    const size_t end = std::min(name.find('.', at), name.size());
    const std::string part = name.substr(at, end - at);
    const bool number = part == "{}" || part.find_first_not_of("0123456789") == std::string::npos;
    kind += number ? "*" : part;
    if (end < name.size()) kind += '.';
    at = end + 1;
  }
  return kind;
}

[[noreturn]] void fail_without_match(const ParameterList& parameters, const std::string& pattern) {
  std::set<std::string> kinds;
  for (const Parameter& p : parameters.all()) {
    for (const ParameterPiece& piece : p.spec.pieces) kinds.insert(kind_of(piece.name));
  }
  std::vector<std::pair<size_t, std::string>> nearest;
  nearest.reserve(kinds.size());
  for (const std::string& kind : kinds) nearest.emplace_back(edit_distance(pattern, kind), kind);
  std::sort(nearest.begin(), nearest.end());
  nearest.resize(std::min(nearest.size(), kNamesShown));
  std::string names;
  for (const auto& [distance, kind] : nearest) names += (names.empty() ? "" : ", ") + kind;
  fail_usage("training.freeze: '{}' matches no parameter; the nearest names are {} (deeptitan inspect lists all)",
             pattern, names);
}

bool matches(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

}  // namespace

void freeze_parameters(ParameterList& parameters, std::span<const std::string> patterns) {
  std::set<std::string> frozen;  // pieces
  for (const std::string& pattern : patterns) {
    bool found = false;
    for (const Parameter& p : parameters.all()) {
      // Of all experts, so that every rank decides alike.
      const std::vector<std::string> names = p.file_names();
      const size_t pieces = p.spec.pieces.size();
      const size_t experts = names.size() / pieces;
      for (size_t i = 0; i < pieces; ++i) {
        const ParameterPiece& piece = p.spec.pieces[i];
        size_t count = 0;
        for (size_t e = 0; e < experts; ++e) count += matches(pattern, names[e * pieces + i]) ? 1 : 0;
        if (count == 0) continue;
        DT_CHECK_USAGE(count == experts,
                       "training.freeze: '{}' matches {} of the {} experts of {}; the experts of a layer are frozen "
                       "together: use {}",
                       pattern, count, experts, piece.name, kind_of(piece.name));
        frozen.insert(piece.name);
        found = true;
      }
    }
    if (!found) fail_without_match(parameters, pattern);
  }
  for (Parameter& p : parameters.all()) {
    const auto is_frozen = [&](const ParameterPiece& piece) { return frozen.contains(piece.name); };
    const auto& pieces = p.spec.pieces;
    const auto left = std::find_if_not(pieces.begin(), pieces.end(), is_frozen);
    if (left == pieces.end()) {
      parameters.freeze(p);
      continue;
    }
    const auto held = std::find_if(pieces.begin(), pieces.end(), is_frozen);
    DT_CHECK_USAGE(held == pieces.end(),
                   "training.freeze matches {} and not {}; they are one product and are frozen together: name both, or "
                   "neither",
                   held->name, left->name);
  }
  const auto& all = parameters.all();
  DT_CHECK_USAGE(
      std::any_of(all.begin(), all.end(), [](const Parameter& p) { return p.residency == Residency::kTrained; }),
      "training.freeze leaves nothing to train");
}

int64_t count_frozen(const ParameterList& parameters) {
  int64_t count = 0;
  for (const Parameter& p : parameters.all()) count += p.frozen ? p.numel() : 0;
  return count;
}

}  // namespace deeptitan

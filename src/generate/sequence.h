#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace deeptitan {

/// A sequence of tokens, and which of them have their entries in the cache. ModelRunner gives it its pages.
struct Sequence {
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  int64_t cached = 0;           // the first of them, whose entries lie in `pages`
  std::vector<int32_t> pages;   // in the order of the entries; each counts as one reference

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  /// Tokens that are still to be run.
  int64_t pending() const { return length() - cached; }
};

/// How many of `pending` tokens of a prompt run in one batch, at most `chunk`. What is left is never so little that it
/// would be run in another form than the prompt whole (kExpandedRows), where that can be had; and it depends on nothing
/// beside the sequence, so that its bits do not depend on what shares its batches.
int64_t next_chunk(int64_t pending, int64_t chunk);

}  // namespace deeptitan

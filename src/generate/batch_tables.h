#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/batch_layout.h"

namespace deeptitan {

/// A batch as the host lays it out: all that a rank needs to run it, beside the model and its cache.
struct BatchTables {
  /// Pages [to] = pages [from], in this order and before anything else.
  struct PageCopy {
    int32_t from;
    int32_t to;
  };
  std::vector<int32_t> query_offset = {0};  // [S + 1]
  std::vector<int32_t> cached_length;       // [S]
  std::vector<int32_t> page_count;          // [S]
  std::vector<int32_t> pages;               // of all sequences, one after another
  std::vector<int32_t> token_ids;           // [T]
  std::vector<int32_t> positions;           // [T]
  std::vector<int32_t> cache_slot;          // [T]
  std::vector<PageCopy> page_copies;
  int64_t longest = 0;  // of the sequences' lengths
  /// What is wanted: logits behind the last token of each sequence, or log-probabilities behind some.
  bool scores = false;
  std::vector<int32_t> scored_rows;  // of the tokens
  std::vector<int32_t> targets;      // as many
  bool check_finite = false;

  int64_t sequences() const { return std::ssize(cached_length); }
  int64_t tokens() const { return std::ssize(token_ids); }
  /// The batch's extents, with a page table of `pages` columns.
  BatchCapacity capacity(int64_t table_pages) const;
  /// The rows of the sequences' last tokens.
  std::vector<int32_t> last_rows() const;
  /// [S, table_pages]
  std::vector<int32_t> page_table(int64_t table_pages) const;
};

/// How ranks send it.
std::vector<int32_t> to_words(const BatchTables& tables);
BatchTables tables_from_words(std::span<const int32_t> words);

}  // namespace deeptitan

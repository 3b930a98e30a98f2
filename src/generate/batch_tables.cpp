#include "generate/batch_tables.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace deeptitan {

BatchCapacity BatchTables::capacity(int64_t table_pages) const {
  BatchCapacity capacity{.tokens = tokens(), .sequences = sequences(), .pages = table_pages, .few_end = 0};
  for (int64_t s = 0; s < sequences(); ++s) {
    const int64_t rows = query_offset[s + 1] - query_offset[s];
    capacity.max_query = std::max(capacity.max_query, rows);
    capacity.max_visible = std::max(capacity.max_visible, cached_length[s] + rows);
    if (rows < kExpandedRows) capacity.few_end = query_offset[s + 1];
  }
  return capacity;
}

std::vector<int32_t> BatchTables::last_rows() const {
  std::vector<int32_t> rows(query_offset.begin() + 1, query_offset.end());
  for (int32_t& row : rows) --row;
  return rows;
}

std::vector<int32_t> BatchTables::page_table(int64_t table_pages) const {
  std::vector<int32_t> table(sequences() * table_pages);
  auto from = pages.begin();
  for (int64_t s = 0; s < sequences(); from += page_count[s++]) {
    std::copy_n(from, page_count[s], table.begin() + s * table_pages);
  }
  return table;
}

namespace {

// The lists of a batch, in the order in which they are sent.
template <typename Tables>
auto lists_of(Tables& t) {
  return std::array{&t.query_offset, &t.cached_length, &t.page_count,  &t.pages,  &t.token_ids,
                    &t.positions,    &t.cache_slot,    &t.scored_rows, &t.targets};
}

}  // namespace

std::vector<int32_t> to_words(const BatchTables& tables) {
  std::vector<int32_t> words = {static_cast<int32_t>(tables.longest), tables.scores ? 1 : 0,
                                tables.check_finite ? 1 : 0, static_cast<int32_t>(tables.page_copies.size())};
  for (const BatchTables::PageCopy& copy : tables.page_copies) words.insert(words.end(), {copy.from, copy.to});
  for (const auto* list : lists_of(tables)) {
    words.push_back(static_cast<int32_t>(list->size()));
    words.insert(words.end(), list->begin(), list->end());
  }
  return words;
}

BatchTables tables_from_words(std::span<const int32_t> words) {
  BatchTables tables;
  const auto take = [&](int64_t count) {
    DT_CHECK(0 <= count && count <= std::ssize(words), "a batch that another rank sent ends too early");
    const std::span<const int32_t> taken = words.first(static_cast<size_t>(count));
    words = words.subspan(static_cast<size_t>(count));
    return taken;
  };
  const std::span<const int32_t> head = take(4);
  tables.longest = head[0];
  tables.scores = head[1] != 0;
  tables.check_finite = head[2] != 0;
  for (int32_t i = 0; i < head[3]; ++i) {
    const std::span<const int32_t> copy = take(2);
    tables.page_copies.push_back({copy[0], copy[1]});
  }
  for (auto* list : lists_of(tables)) {
    const std::span<const int32_t> values = take(take(1)[0]);
    list->assign(values.begin(), values.end());
  }
  return tables;
}

}  // namespace deeptitan

#include "generate/page_pool.h"

#include "core/error.h"

namespace deeptitan {

PagePool::PagePool(int64_t pages) : references_(pages, 0) {
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

int32_t PagePool::acquire() {
  DT_CHECK(!free_.empty(), "all {} cache pages are in use; release a sequence first, or plan for more pages", pages());
  const int32_t page = free_.back();
  free_.pop_back();
  references_[page] = 1;
  return page;
}

void PagePool::share(int32_t page) {
  DT_CHECK(references_.at(page) > 0, "cache page {} is shared, but nobody holds it", page);
  ++references_[page];
}

void PagePool::release(int32_t page) {
  DT_CHECK(references_.at(page) > 0, "cache page {} is released, but nobody holds it", page);
  if (--references_[page] == 0) free_.push_back(page);
}

}  // namespace deeptitan

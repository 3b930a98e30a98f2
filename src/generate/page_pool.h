#pragma once

#include <cstdint>
#include <vector>

namespace deeptitan {

/// Which pages of a cache are in use, and by how many sequences: the first tokens of a prompt that several share lie in
/// pages that all of them refer to. Pages are given out in an order that depends on the calls alone.
class PagePool {
 public:
  explicit PagePool(int64_t pages);

  int64_t pages() const { return static_cast<int64_t>(references_.size()); }
  /// Pages that nobody refers to.
  int64_t available() const { return static_cast<int64_t>(free_.size()); }
  int32_t references(int32_t page) const { return references_[page]; }

  /// A page with one reference. Throws Error where none is left.
  int32_t acquire();
  /// One more reference to a page in use.
  void share(int32_t page);
  /// One fewer; the page of the last is free again.
  void release(int32_t page);

 private:
  std::vector<int32_t> references_;
  std::vector<int32_t> free_;  // the last is the next
};

}  // namespace deeptitan

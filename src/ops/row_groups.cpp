#include "ops/row_groups.h"

#include "core/error.h"

namespace deeptitan {

void check_row_groups(const char* op, const RowGroups& groups, int64_t expected_groups, int64_t rows) {
  DT_CHECK(groups.defined() && groups.sizes.defined(), "{}: expected groups of rows, found none", op);
  // The name is put together where it is needed alone: a token has many ops.
  const auto check = [&](const Tensor& tensor, const char* what, int64_t count) {
    if (tensor.dtype() == DType::kI32 && tensor.rank() == 1 && (count < 0 || tensor.size(0) == count)) return;
    check_tensor(tensor, fmt::format("{}: {} of the groups", op, what).c_str(), DType::kI32, {count});
  };
  check(groups.sizes, "sizes", expected_groups);
  check(groups.offsets, "offsets", groups.groups() + 1);
  DT_CHECK(groups.capacity == rows, "{}: expected groups of {} rows, found groups of {}", op, rows, groups.capacity);
}

GroupRows group_rows(const RowGroups& groups) {
  if (!groups.defined()) return {};
  return {groups.offsets.raw<int32_t>(), groups.sizes.raw<int32_t>(), groups.groups()};
}

}  // namespace deeptitan

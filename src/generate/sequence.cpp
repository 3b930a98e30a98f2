#include "generate/sequence.h"

#include <algorithm>

#include "ops/attention.h"

namespace deeptitan {

int64_t next_chunk(int64_t pending, int64_t chunk) {
  const int64_t left = pending - chunk;
  if (left <= 0) return pending;
  const int64_t shorter = pending - kExpandedRows;
  return left < kExpandedRows && shorter >= kExpandedRows ? shorter : chunk;
}

}  // namespace deeptitan

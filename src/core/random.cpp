#include "core/random.h"

#include <algorithm>

namespace deeptitan {

void fill_normal(float* out, size_t n, uint64_t key, float stddev, uint64_t first) {
  const uint64_t end = first + n;
  const int64_t first_block = static_cast<int64_t>(first / 4);
  const int64_t end_block = static_cast<int64_t>((end + 3) / 4);
#pragma omp parallel for schedule(static) if (n > 16384)
  for (int64_t b = first_block; b < end_block; ++b) {
    const Philox4x32 block = random_block(key, static_cast<uint64_t>(b));
    float values[4];
    random_detail::normal_pair(block.word[0], block.word[1], &values[0], &values[1]);
    random_detail::normal_pair(block.word[2], block.word[3], &values[2], &values[3]);
    const uint64_t begin_index = std::max<uint64_t>(first, 4 * static_cast<uint64_t>(b));
    const uint64_t end_index = std::min<uint64_t>(end, 4 * static_cast<uint64_t>(b) + 4);
    for (uint64_t i = begin_index; i < end_index; ++i) out[i - first] = stddev * values[i % 4];
  }
}

}  // namespace deeptitan

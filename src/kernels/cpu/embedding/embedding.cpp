#include "kernels/cpu/embedding/embedding.h"

#include <algorithm>
#include <cstring>

#include <omp.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding/embedding.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

void gather_rounded_rows(bfloat16* out, const float* table, const int32_t* ids, int64_t tokens, int64_t dim) {
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = table + ids[t] * dim;
    bfloat16* out_row = out + t * dim;
    for_vectors(0, dim, [=](int64_t i, auto lanes) HWY_ATTR { store(load(row + i, lanes), out_row + i, lanes); });
  }
}

/// The columns [begin, end) of the rows whose id is `group` modulo `groups`.
template <typename T>
void scatter_add_part(float* d_table, const T* d_out, const int32_t* ids, int64_t tokens, int64_t dim, int64_t begin,
                      int64_t end, int32_t group, int32_t groups) {
  for (int64_t t = 0; t < tokens; ++t) {
    if (groups > 1 && ids[t] % groups != group) continue;
    float* sum = d_table + ids[t] * dim;
    const T* term = d_out + t * dim;
    for_vectors(begin, end, [=](int64_t i, auto lanes) HWY_ATTR {
      store(hn::Add(load(sum + i, lanes), load(term + i, lanes)), sum + i, lanes);
    });
  }
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& scatter_add_f32 = scatter_add_part<float>;
constexpr auto& scatter_add_bf16 = scatter_add_part<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(gather_rounded_rows);
HWY_EXPORT(scatter_add_f32);
HWY_EXPORT(scatter_add_bf16);

template <typename T>
void gather_rows(T* out, const T* table, const int32_t* ids, int64_t tokens, int64_t dim) {
  parallel_ranges(tokens, tokens * dim, 1, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      std::memcpy(out + t * dim, table + ids[t] * dim, static_cast<size_t>(dim) * sizeof(T));
    }
  });
}

// A block of columns is at least this wide: four cache lines of the sum.
constexpr int64_t kMinBlockColumns = 64;

// Parts are columns first, which share the work evenly, and only past that groups of ids. Either way one part owns an
// element of the sum and adds its terms in the order of the tokens.
template <typename T, typename Kernel>
void scatter_add_parallel(Kernel kernel, float* d_table, const T* d_out, const int32_t* ids, int64_t tokens,
                          int64_t dim) {
  if (tokens <= 0 || dim <= 0) return;
  const int64_t threads = tokens * dim < kMinParallelWork || omp_in_parallel() ? 1 : omp_get_max_threads();
  const int64_t blocks = std::min(threads, (dim + kMinBlockColumns - 1) / kMinBlockColumns);
  const int64_t block_columns =
      ((dim + blocks - 1) / blocks + kMinBlockColumns - 1) / kMinBlockColumns * kMinBlockColumns;
  const int64_t groups = threads / blocks;
  parallel_ranges(blocks * groups, tokens * dim, 1, [=](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part / groups * block_columns;
      kernel(d_table, d_out, ids, tokens, dim, first, std::min(first + block_columns, dim),
             static_cast<int32_t>(part % groups), static_cast<int32_t>(groups));
    }
  });
}

}  // namespace

void embedding_gather(float* out, const float* table, const int32_t* ids, int64_t tokens, int64_t dim) {
  gather_rows(out, table, ids, tokens, dim);
}

void embedding_gather(bfloat16* out, const bfloat16* table, const int32_t* ids, int64_t tokens, int64_t dim) {
  gather_rows(out, table, ids, tokens, dim);
}

void embedding_gather(bfloat16* out, const float* table, const int32_t* ids, int64_t tokens, int64_t dim) {
  const auto gather = HWY_DYNAMIC_DISPATCH(gather_rounded_rows);
  parallel_ranges(tokens, tokens * dim, 1,
                  [=](int64_t begin, int64_t end) { gather(out + begin * dim, table, ids + begin, end - begin, dim); });
}

void embedding_scatter_add(float* d_table, const float* d_out, const int32_t* ids, int64_t tokens, int64_t dim) {
  scatter_add_parallel(HWY_DYNAMIC_DISPATCH(scatter_add_f32), d_table, d_out, ids, tokens, dim);
}

void embedding_scatter_add(float* d_table, const bfloat16* d_out, const int32_t* ids, int64_t tokens, int64_t dim) {
  scatter_add_parallel(HWY_DYNAMIC_DISPATCH(scatter_add_bf16), d_table, d_out, ids, tokens, dim);
}

int64_t first_id_outside(const int32_t* ids, int64_t tokens, int64_t vocab) {
  const auto* found = std::find_if(ids, ids + tokens, [=](int32_t id) { return id < 0 || id >= vocab; });
  return found - ids;
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE

#include "kernels/cuda/attention/sm90_attention_tiles.h"

#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kLevels = 128;  // of cost within a section; the last is that of short tiles
constexpr int kBuckets = kMostAttentionSections * kLevels;
constexpr int kBucketsOfThread = kBuckets / kThreads;
constexpr int kSectionTokens = 16384;  // keys and values of two heads: 19 MB, of the 50 MB of the second-level cache
constexpr int kClearingBlocks = 64;

struct Ordering {
  AttentionRows rows;
  int documents;
  int tokens;
  int section_tokens;
  int most_keys;  // tiles of keys that a tile can see
  int heads;
};

/// One that has no tiles: empty, not meant or not there.
struct Document {
  int first, end, cached, first_key, tiles;
};
__device__ __forceinline__ Document document_at(const Ordering& in, int document) {
  if (document >= in.documents) return {};
  const int first = in.rows.offset[document], end = min(in.rows.offset[document + 1], in.tokens);
  const int cached = in.rows.cached_length == nullptr ? 0 : in.rows.cached_length[document];
  const int first_key = in.rows.first_key == nullptr ? first : in.rows.first_key[document];
  if (end <= first || first_key < 0) return {};
  const int positions = cached + end - first;
  const int tiles = (positions + kAttentionTileRows - 1) / kAttentionTileRows - cached / kAttentionTileRows;
  return {first, end, cached, first_key, tiles};
}

/// Calls visit(bucket, tile) for each tile of the documents: 32 documents a warp, a lane the first tiles of its own,
/// and all lanes together what more a long one has.
template <typename Visit>
__device__ __forceinline__ void visit_tiles(const Ordering& in, const Visit& visit) {
  constexpr int kOwn = 4;
  const int lane = threadIdx.x % kWarp;
  const auto visit_tile = [&](const Document& d, int index) {
    const int section = d.first / in.section_tokens;
    const int older = d.cached / kAttentionTileRows + index;
    const int cost = static_cast<int>(static_cast<int64_t>(older) * (kLevels - 2) / in.most_keys);
    const bool is_short = d.cached == 0 && d.end - d.first <= kShortAttentionTileRows;
    const int position = older * kAttentionTileRows;
    visit(section * kLevels + (is_short ? kLevels - 1 : kLevels - 2 - cost),
          AttentionTile{.first_row = d.first + position - d.cached,
                        .rows_first = d.first,
                        .rows_end = d.end,
                        .first_key = d.first_key + position,
                        .older = older,
                        .is_short = is_short,
                        .unused = {}});
  };
  for (int base = 0; base < in.documents; base += kThreads) {
    const Document d = document_at(in, base + static_cast<int>(threadIdx.x));
    for (int index = 0; index < min(d.tiles, kOwn); ++index) visit_tile(d, index);
    for (uint32_t longer = __ballot_sync(kAllLanes, d.tiles > kOwn); longer != 0; longer &= longer - 1) {
      const int source = __ffs(longer) - 1;
      const Document its{__shfl_sync(kAllLanes, d.first, source), __shfl_sync(kAllLanes, d.end, source),
                         __shfl_sync(kAllLanes, d.cached, source), __shfl_sync(kAllLanes, d.first_key, source),
                         __shfl_sync(kAllLanes, d.tiles, source)};
      for (int index = kOwn + lane; index < its.tiles; index += kWarp) visit_tile(its, index);
    }
  }
}

/// A counting sort by buckets.
__device__ void order_tiles(const AttentionTiles& list, const Ordering& in) {
  __shared__ int begin[kBuckets + 1];  // first how many, then where the next one goes
  __shared__ int warp_end[kThreads / kWarp];
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  for (int bucket = thread; bucket <= kBuckets; bucket += kThreads) begin[bucket] = 0;
  __syncthreads();
  visit_tiles(in, [&](int bucket, const AttentionTile&) { atomicAdd(&begin[bucket], 1); });
  __syncthreads();
  int count[kBucketsOfThread], sum = 0;
#pragma unroll
  for (int i = 0; i < kBucketsOfThread; ++i) sum += count[i] = begin[thread * kBucketsOfThread + i];
  int end = warp_inclusive_scan(sum, lane);
  if (lane == kWarp - 1) warp_end[warp] = end;
  __syncthreads();
  if (warp == 0) warp_end[lane] = warp_inclusive_scan(warp_end[lane], lane);
  __syncthreads();
  if (warp > 0) end += warp_end[warp - 1];
  int at = end - sum;
#pragma unroll
  for (int i = 0; i < kBucketsOfThread; ++i) {
    begin[thread * kBucketsOfThread + i] = at;
    at += count[i];
  }
  if (thread == kThreads - 1) begin[kBuckets] = at;
  __syncthreads();
  if (warp == 0) {
    const int first = begin[lane * kLevels], first_short = begin[lane * kLevels + kLevels - 1];
    const AttentionSection section{0, first, first_short - first, begin[(lane + 1) * kLevels] - first_short};
    const int units = (in.heads + 1) / 2 * (2 * section.long_tiles + section.short_tiles);
    list.sections[lane] = {warp_inclusive_scan(units, lane) - units, section.first_tile, section.long_tiles,
                           section.short_tiles};
    if (lane == 0) *list.next_unit = 0;
  }
  __syncthreads();
  visit_tiles(in, [&](int bucket, const AttentionTile& tile) { list.tiles[atomicAdd(&begin[bucket], 1)] = tile; });
}

__global__ void __launch_bounds__(kThreads)
    order_attention_tiles_kernel(AttentionTiles list, Ordering in, int4* out, int64_t row_chunks, float* log_sum_exp) {
  if (blockIdx.x == 0) return order_tiles(list, in);
  const int64_t held_first = in.documents > 0 ? in.rows.offset[0] : 0;
  const int64_t held_end = in.documents > 0 ? min(in.rows.offset[in.documents], in.tokens) : 0;
  for (int64_t row = blockIdx.x - 1; row < in.tokens; row += gridDim.x - 1) {
    if (row >= held_first && row < held_end) continue;
    for (int64_t chunk = threadIdx.x; chunk < row_chunks; chunk += kThreads) {
      out[row * row_chunks + chunk] = make_int4(0, 0, 0, 0);
    }
    if (log_sum_exp == nullptr) continue;
    for (int head = threadIdx.x; head < in.heads; head += kThreads) log_sum_exp[row * in.heads + head] = 0;
  }
}

}  // namespace

int64_t most_attention_tiles(int64_t tokens, int64_t documents) {
  return tokens / kAttentionTileRows + 2 * std::min(tokens, documents);
}

int64_t attention_tiles_bytes(int64_t tokens, int64_t documents) {
  return (kMostAttentionSections + 1) * static_cast<int64_t>(sizeof(AttentionSection)) +
         most_attention_tiles(tokens, documents) * static_cast<int64_t>(sizeof(AttentionTile));
}

AttentionTiles attention_tiles_at(void* workspace) {
  auto* sections = static_cast<AttentionSection*>(workspace);
  auto* counter = sections + kMostAttentionSections;
  return {reinterpret_cast<AttentionTile*>(counter + 1), sections, reinterpret_cast<int32_t*>(counter)};
}

void order_attention_tiles(void* workspace, void* out, int64_t width, float* log_sum_exp, int64_t heads,
                           const AttentionRows& rows, int64_t most_visible, int64_t tokens, cudaStream_t stream) {
  const int64_t section_tokens =
      std::max<int64_t>(kSectionTokens, (tokens + kMostAttentionSections - 1) / kMostAttentionSections);
  const int64_t most_keys = (most_visible + kAttentionTileRows - 1) / kAttentionTileRows;
  const Ordering ordering{.rows = rows,
                          .documents = static_cast<int>(rows.documents),
                          .tokens = static_cast<int>(tokens),
                          .section_tokens = static_cast<int>(section_tokens),
                          .most_keys = static_cast<int>(std::max<int64_t>(most_keys, 1)),
                          .heads = static_cast<int>(heads)};
  order_attention_tiles_kernel<<<out == nullptr ? 1 : 1 + kClearingBlocks, kThreads, 0, stream>>>(
      attention_tiles_at(workspace), ordering, static_cast<int4*>(out), width / 8, log_sum_exp);
  DT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace deeptitan::cuda

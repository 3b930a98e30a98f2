#include "kernels/cuda/attention/sm90_expanded_attention.h"

#include <algorithm>

#include "kernels/cuda/attention/find_document.cuh"
#include "kernels/cuda/attention/sm90_attention_forward.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/grouped_gemm.h"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int64_t kMostExpandedBytes = 512 << 20;
constexpr int64_t kAlignment = 256;
constexpr int kGatherThreads = 128;

/// Sequences expanded at a time, and turns that it takes until all that a batch can have are.
struct Turns {
  int64_t sequences;
  int64_t count;
};
Turns turns_of(const ExpandedAttention& in) {
  const int64_t bytes = in.most_visible * in.heads * (in.nope_dim + in.value_dim) * 2;
  const int64_t most = std::min(in.rows.sequences, in.tokens / std::max<int64_t>(in.rows.least, 1));
  const int64_t at_once =
      std::clamp<int64_t>(kMostExpandedBytes / std::max<int64_t>(bytes, 1), 1, std::max<int64_t>(most, 1));
  return {at_once, (most + at_once - 1) / at_once};
}

/// The workspace's parts.
struct Parts {
  int32_t* first_key;     // [sequences]: a sequence's first entry among those of the turn, -1: not of this turn
  int32_t* sequence;      // [at once]: of a slot
  int32_t* entry_offset;  // [at once + 1]: a slot's first entry
  int32_t* group;      // [4]: first entry of keys and of values, and number of each, as the grouped product takes them
  bfloat16* latent;    // [entries, L]
  bfloat16* key_rope;  // [entries, Dr]
  bfloat16* key;       // [entries, H, Dn]
  bfloat16* value;     // [entries, H, Dv], right behind them
  void* attention;
  int64_t bytes;
};
Parts parts_of(const ExpandedAttention& in, void* workspace) {
  const Turns turns = turns_of(in);
  const int64_t entries = turns.sequences * in.most_visible;
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    void* part = static_cast<char*>(workspace) + used;
    used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  };
  const auto integers = [&](int64_t count) { return static_cast<int32_t*>(take(4 * count)); };
  const auto elements = [&](int64_t width) { return static_cast<bfloat16*>(take(2 * entries * width)); };
  Parts parts{.first_key = integers(in.rows.sequences),
              .sequence = integers(turns.sequences),
              .entry_offset = integers(turns.sequences + 1),
              .group = integers(4),
              .latent = elements(in.latent_dim),
              .key_rope = elements(in.rope_dim),
              .key = elements(in.heads * (in.nope_dim + in.value_dim)),
              .value = nullptr,
              .attention = take(sm90_attention_forward_workspace(in.tokens, in.rows.sequences)),
              .bytes = 0};
  parts.value = parts.key + entries * in.heads * in.nope_dim;
  parts.bytes = used;
  return parts;
}

/// One warp lays out the sequences meant from the `first`-th on, `at_once` of them.
__global__ void __launch_bounds__(kWarp)
    lay_out_entries_kernel(Parts parts, SequenceRows rows, const int32_t* cached_length, int first, int at_once) {
  const int lane = threadIdx.x;
  int meant_before = 0, entries = 0;
  for (int64_t base = 0; base < rows.sequences; base += kWarp) {
    const int64_t sequence = base + lane;
    const bool held = sequence < rows.sequences;
    const int count = held ? rows.query_offset[sequence + 1] - rows.query_offset[sequence] : 0;
    const bool meant = held && count >= rows.least;
    const uint32_t all = __ballot_sync(kAllLanes, meant);
    const int slot = meant_before + __popc(all & ((1u << lane) - 1)) - first;
    const bool now = meant && slot >= 0 && slot < at_once;
    const int visible = now ? cached_length[sequence] + count : 0;
    const int end = entries + warp_inclusive_scan(visible, lane);
    if (held) parts.first_key[sequence] = now ? end - visible : -1;
    if (now) {
      parts.sequence[slot] = static_cast<int32_t>(sequence);
      parts.entry_offset[slot] = end - visible;
    }
    entries = __shfl_sync(kAllLanes, end, kWarp - 1);
    meant_before += __popc(all);
  }
  for (int slot = min(max(meant_before - first, 0), at_once) + lane; slot <= at_once; slot += kWarp) {
    parts.entry_offset[slot] = entries;
  }
  if (lane == 0) {
    parts.group[0] = parts.group[1] = 0;
    parts.group[2] = parts.group[3] = entries;
  }
}

/// A warp an entry.
__global__ void __launch_bounds__(kGatherThreads)
    gather_entries_kernel(Parts parts, ExpandedAttention in, int at_once) {
  constexpr int kWarps = kGatherThreads / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int64_t entries = parts.group[2];
  for (int64_t at = blockIdx.x * kWarps + threadIdx.x / kWarp; at < entries; at += gridDim.x * kWarps) {
    const int64_t slot = find_document(parts.entry_offset, at_once, at);
    const int64_t entry = at - parts.entry_offset[slot];
    const int32_t* pages = in.page_table + parts.sequence[slot] * in.page_table_stride;
    const int64_t row = pages[entry / in.page_size] * in.page_size + entry % in.page_size;
    const auto* from = reinterpret_cast<const int4*>(in.cache + row * (in.latent_dim + in.rope_dim));
    auto* latent = reinterpret_cast<int4*>(parts.latent + at * in.latent_dim);
    auto* key_rope = reinterpret_cast<int4*>(parts.key_rope + at * in.rope_dim);
    const int latent_chunks = static_cast<int>(in.latent_dim / 8);
    const int chunks = latent_chunks + static_cast<int>(in.rope_dim / 8);
    for (int chunk = lane; chunk < chunks; chunk += kWarp) {
      *(chunk < latent_chunks ? latent + chunk : key_rope + chunk - latent_chunks) = from[chunk];
    }
  }
}

}  // namespace

bool sm90_expanded_attention_fits(const ExpandedAttention& in) {
  return in.latent_dim % 8 == 0 && in.nope_dim == in.value_dim &&
         sm90_attention_has_head(in.nope_dim, in.rope_dim, in.value_dim) &&
         in.most_visible * in.heads * (in.nope_dim + in.value_dim) * 2 <= kMostExpandedBytes;
}

int64_t sm90_expanded_attention_workspace(const ExpandedAttention& in) {
  return parts_of(in, nullptr).bytes;
}

void sm90_expanded_attention(bfloat16* out, const ExpandedAttention& in, void* workspace, cudaStream_t stream) {
  const Turns turns = turns_of(in);
  const Parts parts = parts_of(in, workspace);
  const int64_t entries = turns.sequences * in.most_visible;
  for (int64_t turn = 0; turn < turns.count; ++turn) {
    const auto at_once = static_cast<int>(turns.sequences);
    lay_out_entries_kernel<<<1, kWarp, 0, stream>>>(parts, in.rows, in.cached_length, static_cast<int>(turn) * at_once,
                                                    at_once);
    DT_CUDA_CHECK(cudaGetLastError());
    constexpr int64_t kMostBlocks = 1024;
    const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(entries / (kGatherThreads / kWarp), 1, kMostBlocks));
    gather_entries_kernel<<<blocks, kGatherThreads, 0, stream>>>(parts, in, at_once);
    DT_CUDA_CHECK(cudaGetLastError());
    grouped_gemm_forward_of_both(parts.key, parts.latent, in.key_weight, in.value_weight,
                                 {.group_offsets = parts.group,
                                  .group_sizes = parts.group + 2,
                                  .groups = 2,
                                  .rows = entries,
                                  .n = static_cast<int>(in.heads * in.nope_dim),
                                  .k = static_cast<int>(in.latent_dim)},
                                 stream);
    sm90_attention_over_entries(out,
                                {.query = in.query,
                                 .key = parts.key,
                                 .value = parts.value,
                                 .key_rope = parts.key_rope,
                                 .entries = entries,
                                 .rows = {in.rows.query_offset, in.rows.sequences, in.cached_length, parts.first_key},
                                 .most_visible = in.most_visible,
                                 .tokens = in.tokens,
                                 .heads = in.heads,
                                 .nope_dim = in.nope_dim,
                                 .rope_dim = in.rope_dim,
                                 .value_dim = in.value_dim,
                                 .scale = in.scale},
                                parts.attention, stream);
  }
}

}  // namespace deeptitan::cuda

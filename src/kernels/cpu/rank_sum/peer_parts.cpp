#include "kernels/cpu/rank_sum/peer_parts.h"

#include "core/bfloat16.h"

namespace deeptitan::cpu {
namespace {

// What lies on rank `rank` where `mine` lies here.
const char* at_peer(const void* mine, const cuda::PeerWindow& window, int rank) {
  return window.base[rank] + (static_cast<const char*>(mine) - window.base[window.rank]);
}

template <typename T, typename Widen>
void fetch(float* x, const float* from, const cuda::PeerParts& parts, const cuda::PeerWindow& window,
           const Widen& widen) {
  for (int r = 0; r < window.n_ranks; ++r) {
    if (r == window.rank) continue;
    const int64_t begin = parts.begin[r], end = parts.begin[r + 1];
    const auto* const theirs = reinterpret_cast<const T*>(at_peer(from + begin, window, r));
    for (int64_t i = begin; i < end; ++i) x[i] = widen(theirs[i - begin]);
  }
}

}  // namespace

void fetch_parts(float* x, const cuda::PeerParts& parts, const cuda::PeerWindow& window) {
  fetch<float>(x, x, parts, window, [](float value) { return value; });
}

void fetch_rounded_parts(float* x, const float* rounded, const cuda::PeerParts& parts, const cuda::PeerWindow& window) {
  fetch<bfloat16>(x, rounded, parts, window, [](bfloat16 value) { return to_float(value); });
}

}  // namespace deeptitan::cpu

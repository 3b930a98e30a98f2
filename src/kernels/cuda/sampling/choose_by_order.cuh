#pragma once

// A token that is chosen among the likeliest: what a block does with a row whose tokens have been counted, and without
// top-k weighed, by bins of their logits. The bins say where the k-th token lies, where the weights reach p, and where
// the place that is drawn is; of that bin, or of all bins before it too where these hold few tokens, the ranks are
// fetched and sorted. A bin of many tokens is divided into finer ones first, down to single tokens if need be.

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/sampling/logit_row.cuh"

namespace deeptitan::cuda {

/// An addition of 64 bits as two of 32, which shared memory has.
__device__ __forceinline__ void add_amount(uint32_t* low, uint32_t* high, uint64_t amount) {
  const auto lower = static_cast<uint32_t>(amount);
  const uint32_t sum = atomicAdd(low, lower) + lower;
  const uint32_t upper = static_cast<uint32_t>(amount >> 32) + (sum < lower ? 1 : 0);
  if (upper != 0) atomicAdd(high, upper);
}

template <int kThreads>
class ChooseByOrder {
 public:
  static constexpr int kSorted = kBins;  // ranks that are sorted at once
  static constexpr int kPerThread = kBins / kThreads;
  struct Shared {
    uint64_t amount[kBins];
    union {
      uint64_t ranks[kSorted];
      struct {
        uint32_t low[kBins], high[kBins], count[kBins];
      };
    };
    uint64_t of_warp[kThreads / kWarp];
    uint64_t before;
    int found, fetched;
  };

  __device__ ChooseByOrder(Shared& shared, const LogitRow& row, const RowParts& p, int64_t index, uint64_t best,
                           uint64_t worst)
      : shared_(shared),
        row_(row),
        bins_(row.choice, best, worst),
        top_(static_cast<double>(logit_of(best)) / row.choice.temperature),
        weight_(p.weight + index * kBins),
        count_(p.count + index * kBins) {}

  /// The token, in every thread.
  __device__ int32_t choose() {
    const TokenChoice& choice = row_.choice;
    const Found kth = choice.top_k > 0 ? find_bin(Of::kTokens, static_cast<uint64_t>(choice.top_k)) : Found();
    const bool cut = kth.place >= 0 && kth.place < kBins - 1;  // else nothing with a weight lies behind the k-th
    const uint64_t all = choice.top_k > 0 ? 0 : sum_of_weights();
    const Found last = choice.top_k == 0 ? find_bin(Of::kWeights, share_of(all)) : cut ? kth : Found();
    if (last.place >= 0 && last.tokens <= kSorted) return choose_of_sorted(last, cut, all);
    return choose_of_many(cut, kth, all);
  }

 private:
  enum class Of { kTokens, kWeights, kKept };  // what is added up: one each, weights, or weights after min-p
  struct Found {
    int place = -1;
    uint64_t before = 0;  // the sum of what lies before it
    uint32_t tokens = 0;  // of bins: up to the end of it
  };

  __device__ uint64_t amount_of(Of of, uint64_t rank) const {
    if (of == Of::kTokens) return 1;
    const float logit = logit_of(rank);
    return of == Of::kWeights ? token_weight(row_.choice, logit, top_) : choice_weight(row_.choice, logit, top_);
  }

  /// The least whole sum that is top_p of `all` by the rounding of the CPU.
  __device__ uint64_t share_of(uint64_t all) const {
    const double enough = row_.choice.top_p * static_cast<double>(all);
    const auto whole = static_cast<uint64_t>(enough);
    uint64_t less = whole > 4096 ? whole - 4096 : 0;  // sums below 2^64 are rounded by 1024 at most
    for (uint64_t step = 4096; step > 0; step /= 2) {
      if (static_cast<double>(less + step) < enough) less += step;
    }
    return less + 1;
  }

  /// Of amounts in shared memory, the first with which their sum reaches `target`; -1 where it never does.
  __device__ Found find_first(uint64_t target) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    uint64_t mine = 0;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) mine += shared_.amount[threadIdx.x * kPerThread + i];
    uint64_t end = mine;
#pragma unroll
    for (int width = 1; width < kWarp; width *= 2) {
      const uint64_t lower = __shfl_up_sync(kAllLanes, end, width);
      if (lane >= width) end += lower;
    }
    if (lane == kWarp - 1) shared_.of_warp[warp] = end;
    if (threadIdx.x == 0) shared_.found = -1;
    __syncthreads();
    for (int w = 0; w < warp; ++w) end += shared_.of_warp[w];
    uint64_t before = end - mine;
    if (before < target && target <= end) {
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const uint64_t amount = shared_.amount[threadIdx.x * kPerThread + i];
        if (before < target && target <= before + amount) {
          shared_.found = static_cast<int>(threadIdx.x) * kPerThread + i;
          shared_.before = before;
        }
        before += amount;
      }
    }
    __syncthreads();
    const Found found = {shared_.found, shared_.before, 0};
    __syncthreads();
    return found;
  }

  template <typename Value>
  __device__ uint64_t sum_to(int end, const Value& value) {
    uint64_t sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < end; i += kThreads) sum += value(i);
    return block_sum<kThreads>(sum, shared_.of_warp);
  }
  __device__ uint64_t sum_of_weights() {
    return sum_to(kBins, [&](int bin) { return weight_[bin]; });
  }

  /// By the bins of the whole row.
  __device__ Found find_bin(Of of, uint64_t target) {
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
      shared_.amount[bin] = of == Of::kTokens ? uint64_t{count_[bin]} : weight_[bin];
    }
    __syncthreads();
    Found found = find_first(target);
    if (found.place >= 0) {
      found.tokens = static_cast<uint32_t>(sum_to(found.place + 1, [&](int bin) { return uint64_t{count_[bin]}; }));
    }
    return found;
  }

  /// Brings the ranks that `wanted` takes, at most kSorted, into shared memory, the largest first, zeros behind them.
  /// How many there are.
  template <typename Wanted>
  __device__ int fetch_sorted(const Wanted& wanted) {
    if (threadIdx.x == 0) shared_.fetched = 0;
    __syncthreads();
    row_.for_each<kThreads, 4>([&](uint64_t rank) {
      if (wanted(rank)) shared_.ranks[atomicAdd(&shared_.fetched, 1)] = rank;
    });
    __syncthreads();
    const int count = shared_.fetched;
    int padded = kWarp;
    while (padded < count) padded *= 2;
    for (int i = count + static_cast<int>(threadIdx.x); i < padded; i += kThreads) shared_.ranks[i] = 0;
    for (int run = 2; run <= padded; run *= 2) {
      for (int apart = run / 2; apart > 0; apart /= 2) {
        __syncthreads();
        for (int pair = static_cast<int>(threadIdx.x); pair < padded / 2; pair += kThreads) {
          const int a = 2 * pair - (pair & (apart - 1)), b = a + apart;
          const uint64_t first = shared_.ranks[a], second = shared_.ranks[b];
          if ((first < second) == ((a & run) == 0)) {
            shared_.ranks[a] = second;
            shared_.ranks[b] = first;
          }
        }
      }
    }
    __syncthreads();
    return count;
  }

  /// Of the first `count` sorted ranks, the first with which their sum reaches `target`.
  __device__ Found find_sorted(Of of, int count, uint64_t target) {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) {
      shared_.amount[i] = i < count ? amount_of(of, shared_.ranks[i]) : 0;
    }
    __syncthreads();
    return find_first(target);
  }
  __device__ uint64_t sum_of_sorted(Of of, int count) {
    return sum_to(count, [&](int i) { return amount_of(of, shared_.ranks[i]); });
  }

  /// All that can be chosen lies in the bins up to `last`, which hold few tokens.
  __device__ int32_t choose_of_sorted(const Found& last, bool cut, uint64_t all) {
    const TokenChoice& choice = row_.choice;
    int kept = fetch_sorted([&](uint64_t rank) { return bins_.of(rank) <= last.place; });
    if (cut) {
      const uint64_t kth = shared_.ranks[choice.top_k - 1] >> 32;
      kept = static_cast<int>(sum_to(kept, [&](int i) { return uint64_t{shared_.ranks[i] >> 32 >= kth}; }));
      all = sum_of_sorted(Of::kWeights, kept);
    }
    if (choice.top_p < 1) kept = find_sorted(Of::kWeights, kept, share_of(all)).place + 1;
    const uint64_t place = sampling_place(choice.bits, sum_of_sorted(Of::kKept, kept));
    return static_cast<int32_t>(token_of(shared_.ranks[find_sorted(Of::kKept, kept, place + 1).place]));
  }

  /// The same where they are many: everything is looked for by itself. Tokens of a smaller rank than `least` are out.
  __device__ int32_t choose_of_many(bool cut, const Found& kth, uint64_t all) {
    const TokenChoice& choice = row_.choice;
    uint64_t least = 0;
    if (cut) {
      least = find_in_bin(Of::kTokens, 0, kth, static_cast<uint64_t>(choice.top_k)) >> 32 << 32;
    }
    if (choice.top_p < 1) {
      const bool weighed = choice.top_k == 0;
      if (!weighed) all = weigh_bins(Of::kWeights, least);
      const uint64_t target = share_of(all);
      least = find_in_bin(Of::kWeights, least, weighed ? find_bin(Of::kWeights, target) : find_first(target), target);
    }
    const uint64_t place = sampling_place(choice.bits, weigh_bins(Of::kKept, least));
    return static_cast<int32_t>(token_of(find_in_bin(Of::kKept, least, find_first(place + 1), place + 1)));
  }

  template <typename Bin, typename Wanted>
  __device__ void fill_bins(Of of, const Bin& bin_of, const Wanted& wanted) {
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
      shared_.low[bin] = shared_.high[bin] = shared_.count[bin] = 0;
    }
    __syncthreads();
    row_.for_each<kThreads, 1>([&](uint64_t rank) {
      if (!wanted(rank)) return;
      const int bin = bin_of(rank);
      add_amount(&shared_.low[bin], &shared_.high[bin], amount_of(of, rank));
      atomicAdd(&shared_.count[bin], 1u);
    });
    __syncthreads();
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
      shared_.amount[bin] = uint64_t{shared_.high[bin]} << 32 | shared_.low[bin];
    }
    __syncthreads();
  }

  /// The bins' amounts of what is not out, in shared memory; their sum.
  __device__ uint64_t weigh_bins(Of of, uint64_t least) {
    fill_bins(
        of, [&](uint64_t rank) { return bins_.of(rank); }, [&](uint64_t rank) { return rank >= least; });
    return sum_to(kBins, [&](int bin) { return shared_.amount[bin]; });
  }

  /// The rank with which the sum reaches `target`, in the bin that was found.
  __device__ uint64_t find_in_bin(Of of, uint64_t least, const Found& bin, uint64_t target) {
    uint64_t most = 0, smallest = ~uint64_t{0}, tokens = 0;
    row_.for_each<kThreads, 4>([&](uint64_t rank) {
      if (rank < least || bins_.of(rank) != bin.place) return;
      most = rank > most ? rank : most;
      smallest = rank < smallest ? rank : smallest;
      ++tokens;
    });
    most = block_reduce<kThreads>(most, shared_.of_warp, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
    least = block_reduce<kThreads>(smallest, shared_.of_warp, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
    tokens = block_sum<kThreads>(tokens, shared_.of_warp);
    uint64_t before = bin.before;
    while (tokens > kSorted) {
      int shift = 0;
      while ((most - least) >> shift >= kBins) ++shift;
      fill_bins(
          of, [&](uint64_t rank) { return static_cast<int>((most - rank) >> shift); },
          [&](uint64_t rank) { return rank >= least && rank <= most; });
      const Found part = find_first(target - before);
      tokens = shared_.count[part.place];
      __syncthreads();  // before it is cleared
      before += part.before;
      most -= static_cast<uint64_t>(part.place) << shift;
      const uint64_t width = uint64_t{1} << shift;
      least = most - least >= width ? most - width + 1 : least;
    }
    const int count = fetch_sorted([&](uint64_t rank) { return rank >= least && rank <= most; });
    const uint64_t rank = shared_.ranks[find_sorted(of, count, target - before).place];
    __syncthreads();  // before bins lie there again
    return rank;
  }

  Shared& shared_;
  const LogitRow& row_;
  const LogitBins bins_;
  const double top_;
  const uint64_t* weight_;
  const uint32_t* count_;
};

}  // namespace deeptitan::cuda

// Ranks that run the same tokens, each with experts of its own: the bits of one rank with all of them, whether rows are
// gathered by their counts or added up among zeros.

#include "model/moe/gather_dispatcher.h"

#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "comm/host_communicator.h"
#include "comm/thread_ranks.h"
#include "core/transfer.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "support/compare.h"

namespace deeptitan {
namespace {

constexpr int64_t kExperts = 12, kTopK = 3, kTokens = 17, kHidden = 10;
const RouterOptions kRouter{.experts = kExperts, .top_k = kTopK};

struct Tokens {
  std::vector<float> x = testing::random_normal<float>(kTokens * kHidden, 1);
  std::vector<float> weight = testing::random_normal<float>(kTokens * kTopK, 2);
  std::vector<int32_t> experts = {};

  // None of the tokens chooses an expert before `first` or from `end` on.
  explicit Tokens(int64_t first = 0, int64_t end = kExperts) {
    std::mt19937 random(3);
    for (int64_t slot = 0; slot < kTokens * kTopK; ++slot) {
      experts.push_back(static_cast<int32_t>(first + static_cast<int64_t>(random()) % (end - first)));
    }
  }
};

// What comes out where expert e multiplies by -(e + 1): of a rank those of `own`, whose rows alone it has; the others
// hold what would be seen.
std::vector<float> combined(const TokenDispatcher& dispatcher, const ExpertRange& own, const Tokens& tokens,
                            DType dtype) {
  Arena memory("memory");
  ExecutionContext ctx;
  Arena workspace("workspace");
  ctx.workspace = &workspace;
  Routing routing;
  Tensor x, rows, multiplied, out;
  TokenDispatcher::Route route;
  const auto take = [&] {
    routing.expert_index = memory.take(DType::kI32, {kTokens, kTopK});
    routing.expert_weight = memory.take(DType::kF32, {kTokens, kTopK});
    routing.counts = memory.take(DType::kI32, {kExperts});
    const int64_t capacity = dispatcher.capacity(kTokens);
    for (Tensor* t : {&x, &out}) *t = memory.take(dtype, {kTokens, kHidden});
    for (Tensor* t : {&rows, &multiplied}) *t = memory.take(dtype, {capacity, kHidden});
    route = dispatcher.make_route(memory, kTokens, capacity);
  };
  take();
  memory.allocate();
  workspace.allocate();
  take();
  upload<int32_t>(routing.expert_index, tokens.experts);
  upload<float>(routing.expert_weight, tokens.weight);
  count_choices(ctx, routing.counts, routing.expert_index);
  const auto at = [&](const Tensor& t, int64_t i) {
    return dtype == DType::kF32 ? t.host<float>()[i] : to_float(t.host<bfloat16>()[i]);
  };
  const auto put = [&](const Tensor& t, int64_t i, float value) {
    if (dtype == DType::kF32) {
      t.host<float>()[i] = value;
    } else {
      t.host<bfloat16>()[i] = to_bfloat16(value);
    }
  };
  for (int64_t i = 0; i < x.numel(); ++i) put(x, i, tokens.x[i]);
  dispatcher.dispatch(ctx, rows, x, routing, route);
  for (int64_t i = 0; i < multiplied.numel(); ++i) put(multiplied, i, std::numeric_limits<float>::quiet_NaN());
  const RowGroups groups = dispatcher.groups(routing, route);
  for (int64_t e = 0; e < own.count; ++e) {
    const int32_t begin = groups.offsets.host<int32_t>()[e], size = groups.sizes.host<int32_t>()[e];
    for (int64_t i = begin * kHidden; i < (begin + size) * kHidden; ++i) {
      put(multiplied, i, -static_cast<float>(own.first + e + 1) * at(rows, i));
    }
  }
  dispatcher.combine(ctx, out, multiplied, routing.expert_weight, x, route);
  std::vector<float> result;
  for (int64_t i = 0; i < out.numel(); ++i) result.push_back(at(out, i));
  return result;
}

TEST(GatherDispatcher, HasTheBitsOfOneRankWithAllExperts) {
  const LocalDispatcher local(kExperts, kTopK);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    // The last two leave ranks without a row.
    for (const Tokens& tokens : {Tokens(), Tokens(5, 6), Tokens(10)}) {
      const std::vector<float> expected = combined(local, {0, kExperts}, tokens, dtype);
      for (const int ranks : {2, 3, 4}) {
        for (const int64_t few : {kTokens - 1, kTokens}) {
          run_thread_ranks(ranks, [&](Transport& transport) {
            std::vector<int> all(ranks);
            for (int r = 0; r < ranks; ++r) all[r] = r;
            HostCommunicator ep(transport, "ep", all, /*channel=*/0);
            const GatherDispatcher gather(ep, kRouter, few);
            EXPECT_EQ(gather.can_be_captured(kTokens), few == kTokens);
            EXPECT_EQ(combined(gather, experts_of_rank(kExperts, ep), tokens, dtype), expected)
                << ranks << " ranks, " << few << " few";
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace deeptitan

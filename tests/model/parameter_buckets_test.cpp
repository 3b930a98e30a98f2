#include "model/parameter_buckets.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "model/parameter.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

ParameterSpec spec(const std::string& name, int64_t rows, bool weight_decay = true,
                   ParameterPlacement placement = ParameterPlacement::kDense) {
  ParameterSpec result;
  result.name = name;
  result.shape = {rows, 10};
  result.weight_decay = weight_decay;
  result.placement = placement;
  return result;
}

std::vector<std::vector<std::string>> names_of(const ParameterList& list, const std::vector<ParameterBucket>& buckets) {
  std::vector<std::vector<std::string>> names;
  for (const ParameterBucket& bucket : buckets) {
    names.emplace_back();
    for (const auto& member : bucket.members) names.back().push_back(list.all()[member.parameter].spec.name);
  }
  return names;
}

TEST(ParameterBuckets, FollowTheBackwardAndHoldOneKind) {
  ParameterList list(/*training=*/true, DType::kF32);
  list.declare(spec("embedding", 8));
  list.declare(spec("0.norm", 1, false));
  list.declare(spec("0.weight", 2));
  list.declare(spec("0.experts", 3, true, ParameterPlacement::kExpert));
  Parameter* frozen = list.declare(spec("1.frozen", 2));
  list.freeze(*frozen);
  list.declare(spec("1.weight", 3));
  list.declare(spec("1.norm", 1, false));
  list.declare(spec("head", 4));
  const std::vector<ParameterBucket> buckets = cut_into_buckets(list.all(), 16, 80);
  using Names = std::vector<std::vector<std::string>>;
  // 40 and 30 elements fill a bucket of 80 (the second begins at 48); the embedding has more than enough by itself.
  EXPECT_EQ(names_of(list, buckets),
            (Names{{"head", "1.weight"}, {"1.norm", "0.norm"}, {"0.experts"}, {"0.weight"}, {"embedding"}}));
  EXPECT_EQ(buckets[0].members[1].offset, 48);
  EXPECT_EQ(buckets[0].numel, 78);
  EXPECT_FALSE(buckets[1].weight_decay);
  EXPECT_TRUE(buckets[2].placement == ParameterPlacement::kExpert);
}

TEST(ParameterBuckets, ParametersAreViewsOfTheirBucket) {
  ParameterList list(/*training=*/true, DType::kF32);
  list.declare(spec("a", 3));
  list.declare(spec("b", 5));
  Arena values("values"), gradients("gradients");
  for (int pass = 0; pass < 2; ++pass) {
    if (pass == 1) values.allocate(), gradients.allocate();
    list.plan_values(values);
    list.plan_gradients(gradients);
  }
  ASSERT_EQ(list.buckets().size(), 1u);
  const ParameterBucket& bucket = list.buckets().front();
  for (const auto& member : bucket.members) {
    const Parameter& p = list.all()[member.parameter];
    EXPECT_EQ(p.value.host<float>(), bucket.value.host<float>() + member.offset);
    EXPECT_EQ(p.gradient.host<float>(), bucket.gradient.host<float>() + member.offset);
    EXPECT_EQ(member.offset % 16, 0);
  }
}

TEST(ParameterBuckets, RanksOwnPartsThatCoverABucketOnce) {
  for (const int64_t numel : {0, 1, 15, 16, 17, 1000, 4096}) {
    for (const int64_t ranks : {1, 2, 3, 4, 7, 64}) {
      int64_t next = 0;
      int64_t largest = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const BucketPart part = owned_part(numel, ranks, rank, 16);
        EXPECT_EQ(part.begin, next) << numel << " in " << ranks;
        EXPECT_TRUE(part.begin == numel || part.begin % 16 == 0);
        largest = std::max(largest, part.end - part.begin);
        next = part.end;
      }
      EXPECT_EQ(next, numel) << ranks;
      EXPECT_LT(largest, numel / ranks + 1 + 16);
    }
  }
  EXPECT_EQ(owned_part(100, 1, 0, 16).end, 100);
  expect_runtime_error([] { owned_part(100, 2, 2, 16); }, "rank 2 of 2: ranks count from 0");
}

}  // namespace
}  // namespace deeptitan

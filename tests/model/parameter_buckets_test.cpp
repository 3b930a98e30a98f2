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

// A parameter of 400 blocks' worth of elements, of which some experts lie here, between two that are less than a block.
TEST(ParameterBuckets, RanksOwnPartsThatMeetBetweenBlocks) {
  for (const ExpertRange experts : {ExpertRange{}, ExpertRange{.first = 3, .count = 2}}) {
    ParameterList list(/*training=*/true, DType::kF32, experts);
    list.declare(spec("small", 7));
    ParameterSpec stacked = spec("experts.{}", 0);
    stacked.shape = {8, 5000, 10};
    list.declare(stacked);
    list.declare(spec("other", 40));
    const std::vector<ParameterBucket> buckets = cut_into_buckets(list.all(), 16, 1 << 20);
    ASSERT_EQ(buckets.size(), 1u);
    const ParameterBucket& bucket = buckets.front();
    const int64_t block = 2048;  // of 400,000 elements in 256 blocks of whole 1024s
    for (const int64_t ranks : {1, 2, 3, 4, 7, 64}) {
      int64_t next = 0, largest = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const BucketPart part = owned_part(bucket, ranks, rank);
        EXPECT_EQ(part.begin, next) << ranks;
        largest = std::max(largest, part.end - part.begin);
        next = part.end;
        const auto meets = [&](const ParameterBucket::Member& m) {
          const int64_t in_whole = m.first + part.end - m.offset;
          return part.end == m.offset ||
                 (m.numel > 1024 && part.end > m.offset && part.end < m.offset + m.numel && in_whole % block == 0);
        };
        EXPECT_TRUE(next == bucket.numel || std::any_of(bucket.members.begin(), bucket.members.end(), meets)) << ranks;
      }
      EXPECT_EQ(next, bucket.numel) << ranks;
      EXPECT_LE(largest, bucket.numel / ranks + 1 + block) << ranks;
    }
    expect_runtime_error([&] { owned_part(bucket, 2, 2); }, "rank 2 of 2: ranks count from 0");
  }
}

}  // namespace
}  // namespace deeptitan

#include "model/attention/rope_table.h"

#include <cmath>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

constexpr int64_t kPositions = 300;

// A table with its memory.
struct Table {
  Arena arena{"table"};
  RopeTable table;

  Table(const ModelConfig& config, int64_t length) : table(config, kPositions) {
    table.plan(arena);
    arena.allocate();
    table.plan(arena);
    table.fill(length);
  }
  float cos(int64_t position, int64_t i) const { return table.cos().host<float>()[position * table.cos().size(1) + i]; }
  float sin(int64_t position, int64_t i) const { return table.sin().host<float>()[position * table.sin().size(1) + i]; }
  // The frequency of a pair, from its angle at position 1 (which is below pi).
  double frequency(int64_t i) const { return std::atan2(sin(1, i), cos(1, i)); }
};

ModelConfig config_with(RopeKind kind, int64_t dim = 64) {
  ModelConfig config;
  config.qk_rope_head_dim = dim;
  config.qk_nope_head_dim = 128;
  config.max_position_embeddings = 64;
  config.rope.kind = kind;
  config.rope.factor = 40.0;
  return config;
}

double plain_frequency(int64_t i, int64_t dim, double theta = 10000.0) {
  return std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
}

TEST(RopeTable, PlainAnglesArePositionTimesFrequency) {
  const Table t(config_with(RopeKind::kPlain, 6), kPositions);
  for (const int64_t p : {0, 1, 63, 64, 299}) {
    for (int64_t i = 0; i < 3; ++i) {
      // The angle is rounded to fp32 twice, as the reference does.
      const double angle = static_cast<double>(p) * plain_frequency(i, 6);
      EXPECT_NEAR(t.cos(p, i), std::cos(angle), 1e-7 + 2e-7 * angle) << p << " " << i;
      EXPECT_NEAR(t.sin(p, i), std::sin(angle), 1e-7 + 2e-7 * angle) << p << " " << i;
    }
  }
}

TEST(RopeTable, LinearScalingDividesThePosition) {
  ModelConfig config = config_with(RopeKind::kLinear);
  config.rope.factor = 4.0;
  const Table t(config, kPositions);
  const Table plain(config_with(RopeKind::kPlain), kPositions);
  for (int64_t i = 0; i < 32; ++i) {
    EXPECT_NEAR(t.cos(4 * 61, i), plain.cos(61, i), 1e-5) << i;
    EXPECT_NEAR(t.sin(4 * 61, i), plain.sin(61, i), 1e-5) << i;
  }
}

TEST(RopeTable, DynamicScalingFollowsTheLengthInUseAndComesBack) {
  ModelConfig config = config_with(RopeKind::kDynamic);
  config.rope.factor = 4.0;
  Table t(config, 64);
  for (int64_t i = 0; i < 32; ++i) EXPECT_NEAR(t.frequency(i), plain_frequency(i, 64), 1e-6) << i;
  t.table.fill(256);
  // theta (4 * 256 / 64 - 3)^(64 / 62) = theta 13^(32 / 31)
  const double theta = 10000.0 * std::pow(13.0, 32.0 / 31.0);
  for (int64_t i = 0; i < 32; ++i) EXPECT_NEAR(t.frequency(i), plain_frequency(i, 64, theta), 1e-6) << i;
  t.table.fill(7);
  for (int64_t i = 0; i < 32; ++i) EXPECT_NEAR(t.frequency(i), plain_frequency(i, 64), 1e-6) << i;
}

// DeepSeek-V2-Lite: 64 dimensions trained at 4096, so that pairs below floor(10.47) = 10 keep their frequency, those
// from ceil(22.51) = 23 on are divided by 40, and the ramp runs in between.
TEST(RopeTable, YarnKeepsFastFrequenciesAndInterpolatesSlowOnes) {
  ModelConfig config = config_with(RopeKind::kYarn);
  config.rope.original_max_position_embeddings = 4096;
  config.rope.mscale = 0.707;
  config.rope.mscale_all_dim = 0.707;
  const Table t(config, kPositions);
  for (int64_t i = 0; i < 32; ++i) {
    const double kept = i <= 10 ? 1.0 : i >= 23 ? 0.0 : static_cast<double>(23 - i) / 13.0;
    const double expected = plain_frequency(i, 64) * (kept + (1.0 - kept) / 40.0);
    EXPECT_NEAR(t.frequency(i), expected, 1e-6 * expected + 1e-9) << i;
  }
}

TEST(RopeTable, YarnScalesCosAndSinByTheRatioOfItsTwoFactors) {
  ModelConfig config = config_with(RopeKind::kYarn);
  config.rope.mscale = 0.707;
  config.rope.mscale_all_dim = 0.0;
  const Table alone(config, kPositions);
  EXPECT_NEAR(alone.cos(0, 0), 0.1 * 0.707 * std::log(40.0) + 1.0, 1e-6);
  config.rope.mscale_all_dim = 0.707;
  const Table both(config, kPositions);
  EXPECT_EQ(both.cos(0, 0), 1.0f);
}

// The scales that serving systems state for the released models.
TEST(RopeTable, SoftmaxScalesOfTheReleasedModels) {
  ModelConfig config = config_with(RopeKind::kYarn);
  config.rope.mscale_all_dim = 0.707;
  EXPECT_NEAR(RopeTable::softmax_scale(config), 0.1147213867929261, 1e-12);  // DeepSeek-V2 and V2-Lite
  config.rope.mscale_all_dim = 1.0;
  EXPECT_NEAR(RopeTable::softmax_scale(config), 0.1352337788608801, 1e-12);  // DeepSeek-V3
  config.rope.mscale_all_dim = 0.0;
  EXPECT_NEAR(RopeTable::softmax_scale(config), 1.0 / std::sqrt(192.0), 1e-15);
}

TEST(RopeTable, MscaleAllDimCountsForEveryKindOfStretching) {
  const double plain = 1.0 / std::sqrt(192.0), m = 0.1 * 0.707 * std::log(40.0) + 1.0;
  for (const RopeKind kind : {RopeKind::kPlain, RopeKind::kLinear, RopeKind::kDynamic, RopeKind::kYarn}) {
    ModelConfig config = config_with(kind);
    config.rope.factor = 40.0;
    config.rope.mscale_all_dim = 0.707;
    EXPECT_NEAR(RopeTable::softmax_scale(config), kind == RopeKind::kPlain ? plain : plain * m * m, 1e-15)
        << name_of(kind);
  }
}

}  // namespace
}  // namespace deeptitan

#include "train/learning_rate.h"

#include <cmath>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

LearningRateSchedule schedule(DecayType type, int64_t steps, int64_t warmup, double ratio, double floor) {
  RunConfig config;
  config.optimizer.lr = 2.0;
  config.training.steps = steps;
  config.lr_scheduler = {warmup, type, ratio, floor};
  return LearningRateSchedule(config);
}

TEST(LearningRate, RisesOverWarmupThenStays) {
  const LearningRateSchedule s = schedule(DecayType::kConstant, 100, 4, 1.0, 0.0);
  EXPECT_DOUBLE_EQ(s.at(1), 0.5);
  EXPECT_DOUBLE_EQ(s.at(2), 1.0);
  EXPECT_DOUBLE_EQ(s.at(4), 2.0);
  EXPECT_DOUBLE_EQ(s.at(5), 2.0);
  EXPECT_DOUBLE_EQ(s.at(100), 2.0);
}

TEST(LearningRate, FallsInTheLastPartToItsFloor) {
  const LearningRateSchedule linear = schedule(DecayType::kLinear, 100, 10, 0.2, 0.1);
  EXPECT_DOUBLE_EQ(linear.at(80), 2.0);
  EXPECT_DOUBLE_EQ(linear.at(90), 2.0 * (0.1 + 0.9 * 0.5));
  EXPECT_DOUBLE_EQ(linear.at(100), 0.2);
  EXPECT_DOUBLE_EQ(linear.at(101), 0.2);
  const LearningRateSchedule cosine = schedule(DecayType::kCosine, 100, 0, 0.2, 0.1);
  EXPECT_DOUBLE_EQ(cosine.at(85), 2.0 * (0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5))));
  EXPECT_NEAR(cosine.at(100), 0.2, 1e-12);
  const LearningRateSchedule sqrt = schedule(DecayType::kSqrt, 100, 0, 0.2, 0.1);
  EXPECT_DOUBLE_EQ(sqrt.at(85), 2.0 * (0.1 + 0.9 * 0.5));
  EXPECT_DOUBLE_EQ(sqrt.at(100), 0.2);
}

TEST(LearningRate, DecayNeverReachesIntoWarmup) {
  const LearningRateSchedule s = schedule(DecayType::kLinear, 10, 6, 1.0, 0.0);
  EXPECT_DOUBLE_EQ(s.at(6), 2.0);
  EXPECT_DOUBLE_EQ(s.at(7), 1.5);
  EXPECT_DOUBLE_EQ(s.at(10), 0.0);
}

TEST(LearningRate, WarmupLongerThanTheRunRisesAllTheWay) {
  const LearningRateSchedule s = schedule(DecayType::kCosine, 4, 100, 1.0, 0.0);
  EXPECT_DOUBLE_EQ(s.at(1), 0.5);
  EXPECT_DOUBLE_EQ(s.at(4), 2.0);
}

TEST(LearningRate, NeverRisesAfterWarmup) {
  for (const DecayType type : {DecayType::kConstant, DecayType::kLinear, DecayType::kCosine, DecayType::kSqrt}) {
    for (const double ratio : {0.0, 0.013, 0.5, 1.0}) {
      const LearningRateSchedule s = schedule(type, 137, 9, ratio, 0.05);
      for (int64_t step = 10; step < 140; ++step) {
        ASSERT_LE(s.at(step + 1), s.at(step));
        ASSERT_GE(s.at(step), 0.1 - 1e-12);
      }
    }
  }
}

TEST(LearningRate, StepsCountFromOne) {
  expect_runtime_error([] { schedule(DecayType::kLinear, 10, 0, 1.0, 0.0).at(0); },
                       "learning rate of step 0; steps count from 1");
}

}  // namespace
}  // namespace deeptitan

#include "ops/op_scope.h"

#include <array>
#include <limits>

#include <gtest/gtest.h>

#include "ops/op_case.h"
#include "ops/rms_norm.h"

namespace deeptitan {
namespace {

TEST(OpScope, APlannedStepCountsCallsAndBytesAndTakesNoTime) {
  OpCase c;
  OpProfile profile;
  c.ctx.profile = &profile;
  const Tensor x = c.bf16({4, 8});
  rms_norm(c.ctx, x, {}, x, c.f32({8}), 1e-6);
  rms_norm(c.ctx, x, {}, x, c.f32({8}), 1e-6);
  const OpProfile::Entry& entry = profile.entries.at("rms_norm");
  EXPECT_EQ(entry.calls, 2);
  EXPECT_EQ(entry.bytes, 2 * (64 + 64 + 32));
  EXPECT_EQ(entry.seconds, 0);
}

TEST(OpScope, CheckFiniteNamesTheOpAndItsOutput) {
  std::array<float, 4> values = {1, 2, std::numeric_limits<float>::infinity(), 4};
  std::array<float, 2> weight = {1, 1};
  const Tensor x(values.data(), DType::kF32, {2, 2});
  const Tensor w(weight.data(), DType::kF32, {2});
  ExecutionContext ctx;
  ctx.check_finite = true;
  expect_runtime_error([&] { rms_norm(ctx, x, {}, x, w, 1e-6); },
                       "rms_norm gave a value that is not finite in its output fp32 [2, 2]");
}

}  // namespace
}  // namespace deeptitan

#include "kernels/grouped_gemm_options.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace deeptitan {
namespace {

TEST(GroupedGemmOptions, NamesGoBothWays) {
  for (const char* name : {"loop", "bf16", "fp8_rowwise", "fp8_blockwise"}) {
    EXPECT_EQ(grouped_gemm_strategy_name(parse_grouped_gemm_strategy(name)), name);
  }
}

TEST(GroupedGemmOptions, AnUnknownNameListsTheKnownOnes) {
  try {
    parse_grouped_gemm_strategy("fp8");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(),
                 "there is no grouped GEMM strategy \"fp8\"; use one of: loop, bf16, fp8_rowwise, fp8_blockwise");
  }
}

TEST(GroupedGemmOptions, OnlyTheLoopStaysOutOfGraphs) {
  EXPECT_FALSE(grouped_gemm_can_be_captured(GroupedGemmStrategy::kLoop));
  EXPECT_TRUE(grouped_gemm_can_be_captured(GroupedGemmStrategy::kBf16));
  EXPECT_TRUE(grouped_gemm_can_be_captured(GroupedGemmStrategy::kFp8Rowwise));
  EXPECT_TRUE(grouped_gemm_can_be_captured(GroupedGemmStrategy::kFp8Blockwise));
}

}  // namespace
}  // namespace deeptitan

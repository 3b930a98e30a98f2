#include "kernels/grouped_gemm_options.h"

#include <array>

#include "core/error.h"

namespace deeptitan {

namespace {
constexpr std::array kAll = {GroupedGemmStrategy::kLoop, GroupedGemmStrategy::kBf16, GroupedGemmStrategy::kFp8Rowwise,
                             GroupedGemmStrategy::kFp8Blockwise};
}  // namespace

std::string_view grouped_gemm_strategy_name(GroupedGemmStrategy strategy) {
  switch (strategy) {
    case GroupedGemmStrategy::kLoop:
      return "loop";
    case GroupedGemmStrategy::kBf16:
      return "bf16";
    case GroupedGemmStrategy::kFp8Rowwise:
      return "fp8_rowwise";
    case GroupedGemmStrategy::kFp8Blockwise:
      return "fp8_blockwise";
  }
  fail("no grouped GEMM strategy has the number {}", static_cast<int>(strategy));
}

GroupedGemmStrategy parse_grouped_gemm_strategy(std::string_view name) {
  for (const GroupedGemmStrategy strategy : kAll) {
    if (grouped_gemm_strategy_name(strategy) == name) return strategy;
  }
  fail_usage("there is no grouped GEMM strategy \"{}\"; use one of: {}", name, grouped_gemm_strategy_names(kAll));
}

std::string grouped_gemm_strategy_names(std::span<const GroupedGemmStrategy> strategies) {
  std::string names;
  for (const GroupedGemmStrategy strategy : strategies) {
    if (!names.empty()) names += ", ";
    names += grouped_gemm_strategy_name(strategy);
  }
  return names;
}

}  // namespace deeptitan

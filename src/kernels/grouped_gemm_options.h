#pragma once

#include <span>
#include <string>
#include <string_view>

namespace deeptitan {

/// How the product of each expert's rows with its weights is computed. Names in configurations: "loop", "bf16",
/// "fp8_rowwise", "fp8_blockwise".
enum class GroupedGemmStrategy {
  kLoop,          // one library product an expert; reads the group sizes on the host
  kBf16,          // one kernel for all experts, bf16 operands
  kFp8Rowwise,    // e4m3 operands, one scale a row of activations and one an output column of weights
  kFp8Blockwise,  // e4m3 operands, scales for 1 x 128 activations and 128 x 128 weights
};

/// Name of the strategy as written in a configuration.
std::string_view grouped_gemm_strategy_name(GroupedGemmStrategy strategy);

/// The strategy called `name`. Throws a usage Error that lists the names if there is none.
GroupedGemmStrategy parse_grouped_gemm_strategy(std::string_view name);

/// "loop, bf16": the names of some strategies, for messages.
std::string grouped_gemm_strategy_names(std::span<const GroupedGemmStrategy> strategies);

/// Whether operands are e4m3.
constexpr bool is_fp8(GroupedGemmStrategy strategy) {
  return strategy == GroupedGemmStrategy::kFp8Rowwise || strategy == GroupedGemmStrategy::kFp8Blockwise;
}

/// Whether a product by this strategy can be captured in a CUDA graph: it neither waits for the device nor reads
/// anything back. kLoop alone cannot.
constexpr bool grouped_gemm_can_be_captured(GroupedGemmStrategy strategy) {
  return strategy != GroupedGemmStrategy::kLoop;
}

struct GroupedGemmOptions {
  /// Upper limit on the multiprocessors used, so that communication can run beside; 0: all. The kernels run in pairs
  /// of multiprocessors, so an odd limit is rounded down, and 1 is refused. kLoop passes it on to cuBLASLt.
  int max_multiprocessors = 0;
  bool accumulate = true;  // of a weight gradient: added to what is there, or in its place
};

}  // namespace deeptitan

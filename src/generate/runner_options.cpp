#include "generate/runner_options.h"

#include <algorithm>

#include "config/dtype_words.h"
#include "core/error.h"
#include "ops/linear.h"

namespace deeptitan {

int64_t usual_prefill_chunk(Device device) {
  return device.kind == DeviceKind::kCpu ? 1024 : 8192;
}

RunnerOptions complete_options(RunnerOptions options, const ModelConfig& config) {
  if (options.context_length == 0) options.context_length = config.max_position_embeddings;
  DT_CHECK_USAGE(0 < options.context_length && options.context_length <= config.max_position_embeddings,
                 "a context of {} tokens was asked for; the model's max_position_embeddings allows 1 to {}",
                 options.context_length, config.max_position_embeddings);
  DT_CHECK_USAGE(options.page_size > 0, "page_size = {}: a cache page holds at least one token", options.page_size);
  DT_CHECK_USAGE(options.sequences > 0, "sequences = {}: a batch holds at least one sequence", options.sequences);
  DT_CHECK_USAGE(!options.experts || config.n_routed_experts > 0,
                 "experts' products by {} were asked for, and the model has no experts; leave it at auto",
                 grouped_gemm_strategy_name(*options.experts));
  if (config.rope.kind == RopeKind::kDynamic) options.sequences = 1;
  // Each rank plans for itself, so that the first could not choose fewer for all.
  const Device planned_for = options.ranks == nullptr ? options.device : Device{};
  if (options.prefill_chunk == 0) options.prefill_chunk = usual_prefill_chunk(planned_for);
  options.prefill_chunk = std::clamp<int64_t>(options.prefill_chunk, 1, options.context_length);
  options.batch_tokens = std::max(options.batch_tokens, options.prefill_chunk + options.sequences - 1);
  const int64_t context_pages = (options.context_length + options.page_size - 1) / options.page_size;
  if (options.pages == 0) options.pages = options.sequences * context_pages;
  DT_CHECK_USAGE(options.pages >= context_pages,
                 "a cache of {} pages of {} tokens cannot hold one sequence of the context's {} tokens; it needs {}",
                 options.pages, options.page_size, options.context_length, context_pages);
  return options;
}

DType parse_compute_dtype(std::string_view word, Device device) {
  const std::string_view usual = usual_dtype_word(word);
  if (usual == "auto") return device.kind == DeviceKind::kCuda || bfloat16_is_native() ? DType::kBF16 : DType::kF32;
  if (usual == "bf16") return DType::kBF16;
  if (usual == "fp32") return DType::kF32;
  fail_usage("dtype = {}: use auto, bf16 or fp32", word);
}

std::optional<GroupedGemmStrategy> parse_expert_products(std::string_view word) {
  if (word == "auto") return std::nullopt;
  return parse_grouped_gemm_strategy(word);
}

}  // namespace deeptitan

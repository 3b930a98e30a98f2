#include <random>
#include <vector>

#include "kernels/cpu/permute/permute.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/permute_indices/permute_indices.h"
#include "kernels/cuda/router/router.h"
#include "moe_kernels_benchmark.h"

namespace deeptitan::benchmark {

namespace {

void benchmark_routing(Session& session, const std::string& model, int64_t tokens, const RouterOptions& options) {
  const int64_t logit_count = tokens * options.experts;
  const int64_t slots = tokens * options.top_k;
  const DeviceMemory logits(logit_count * 4), bias(options.experts * 4), scores(logit_count * 4),
      d_logits(logit_count * 4), index(slots * 4), weight(slots * 4), d_weight(slots * 4), counts(options.experts * 4),
      workspace(cuda::kRouterWorkspaceBytes);
  fill_normal_f32(logits.as<void>(), logit_count, 1, session.stream());
  fill_normal_f32(d_weight.as<void>(), slots, 2, session.stream());
  DT_CUDA_CHECK(cudaMemsetAsync(bias.as<void>(), 0, options.experts * 4, session.stream()));
  DT_CUDA_CHECK(cudaMemsetAsync(workspace.as<void>(), 0, cuda::kRouterWorkspaceBytes, session.stream()));
  const auto forward = [&](float* saved) {
    return [&, saved](cudaStream_t stream) {
      cuda::route_tokens(index.as<int32_t>(), weight.as<float>(), saved, counts.as<int32_t>(), logits.as<float>(),
                         bias.as<float>(), tokens, options, workspace.as<void>(), stream);
    };
  };
  const std::string shape = model + ", " + std::to_string(tokens) + " x " + std::to_string(options.experts);
  const double logit_bytes = 4.0 * static_cast<double>(logit_count);
  const double slot_bytes = 8.0 * static_cast<double>(slots);
  session.run({"router " + shape + ", no scores kept", logit_bytes + slot_bytes, 0, forward(nullptr)});
  session.run({"router " + shape + ", scores kept", 2 * logit_bytes + slot_bytes, 0, forward(scores.as<float>())});
  session.run({"router backward " + shape, 2 * logit_bytes + slot_bytes, 0, [&](cudaStream_t stream) {
                 cuda::route_tokens_backward(d_logits.as<float>(), d_weight.as<float>(), nullptr, scores.as<float>(),
                                             index.as<int32_t>(), tokens, options, stream);
               }});
  const SlotSortShape sort_shape{slots, options.experts, 128, cpu::max_sorted_rows(slots, options.experts, 128)};
  const DeviceMemory row_of_slot(slots * 4), slot_of_row(sort_shape.row_capacity * 4),
      offset((options.experts + 1) * 4), sort_workspace(cuda::sort_slots_workspace_bytes(sort_shape));
  session.run({"sort of slots " + shape + ", top " + std::to_string(options.top_k),
               slot_bytes + 4.0 * static_cast<double>(sort_shape.row_capacity), 0, [&](cudaStream_t stream) {
                 cuda::sort_slots(row_of_slot.as<int32_t>(), slot_of_row.as<int32_t>(), offset.as<int32_t>(),
                                  index.as<int32_t>(), counts.as<int32_t>(), sort_shape, sort_workspace.as<void>(),
                                  stream);
               }});
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

void benchmark_permute_indices(Session& session, int ranks, int local_experts, int largest_count) {
  std::mt19937 random(1);
  std::vector<int32_t> host(static_cast<size_t>(ranks) * local_experts);
  int64_t rows = 0;
  for (int32_t& count : host) rows += count = static_cast<int32_t>(random() % (largest_count + 1));
  const PermuteIndicesShape shape{ranks, local_experts, 128, rows + local_experts * 128};
  const DeviceMemory counts(host.size() * 4), input_row(shape.row_capacity * 4), size(local_experts * 4),
      offset((local_experts + 1) * 4);
  DT_CUDA_CHECK(cudaMemcpy(counts.as<void>(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
  const Work work{"permute_indices " + std::to_string(ranks) + " ranks x " + std::to_string(local_experts) +
                      " experts, " + std::to_string(rows) + " rows",
                  4.0 * static_cast<double>(shape.row_capacity), 0, [&](cudaStream_t stream) {
                    cuda::permute_indices(input_row.as<int32_t>(), size.as<int32_t>(), offset.as<int32_t>(),
                                          counts.as<int32_t>(), shape, stream);
                  }};
  session.run(work);
  session.run_in_graph(work);
}

}  // namespace

void benchmark_router(Session& session) {
  const Work nothing{"empty kernel", 0, 0, launch_nothing};
  session.run(nothing);
  session.run_in_graph(nothing);
  benchmark_permute_indices(session, 8, 32, 524);
  benchmark_permute_indices(session, 8, 256, 65);
  benchmark_permute_indices(session, 128, 2, 524);
  benchmark_routing(session, "noaux_tc (V3)", 32768,
                    {RouterScoring::kSigmoid, RouterSelection::kGroupsByTwoBest, 256, 8, 8, 4, true, 2.5f});
  benchmark_routing(session, "group-limited (V2)", 32768,
                    {RouterScoring::kSoftmax, RouterSelection::kGroupsByBest, 160, 6, 8, 3, false, 16.0f});
  benchmark_routing(session, "greedy (V2-Lite)", 32768,
                    {RouterScoring::kSoftmax, RouterSelection::kTopK, 64, 6, 1, 1, false, 1.0f});
  benchmark_routing(session, "one group, top 8", 32768,
                    {RouterScoring::kSigmoid, RouterSelection::kGroupsByTwoBest, 384, 8, 1, 1, true, 2.8f});
}

}  // namespace deeptitan::benchmark

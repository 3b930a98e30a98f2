#include <random>
#include <vector>

#include <fmt/format.h>

#include "kernels/cpu/permute/permute.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/quantization/quantization.h"
#include "moe_kernels_benchmark.h"

namespace deeptitan::benchmark {

namespace {

void benchmark_rows(Session& session, int64_t tokens, int top_k, int experts, int64_t hidden) {
  std::mt19937 random(1);
  const int64_t slots = tokens * top_k;
  const SlotSortShape shape{slots, experts, 128, cpu::max_sorted_rows(slots, experts, 128)};
  std::vector<int32_t> index(slots), counts(experts, 0), row_of_slot(slots), slot_of_row(shape.row_capacity),
      offset(experts + 1);
  for (int32_t& e : index) ++counts[e = static_cast<int32_t>(random() % experts)];
  cpu::sort_slots(row_of_slot.data(), slot_of_row.data(), offset.data(), index.data(), counts.data(), shape);
  const int64_t rows = offset[experts];  // true rows and padding
  const DeviceMemory x(tokens * hidden * 2), y(rows * hidden * 2), d_y(rows * hidden * 2), weight(slots * 4),
      d_weight(slots * 4), device_row_of_slot(slots * 4), device_slot_of_row(rows * 4), q(rows * hidden),
      scale(scale_count(rows, hidden, ScaleLayout::kColumnMajor) * 4),
      workspace(
          cuda::quantize_permuted_rows_workspace_bytes(tokens, hidden, {ScaleKind::kFloat, ScaleLayout::kColumnMajor}));
  fill_normal_bf16(x.as<void>(), tokens * hidden, 1, session.stream());
  fill_normal_bf16(y.as<void>(), rows * hidden, 2, session.stream());
  fill_normal_f32(weight.as<void>(), slots, 3, session.stream());
  DT_CUDA_CHECK(cudaMemcpy(device_row_of_slot.as<void>(), row_of_slot.data(), slots * 4, cudaMemcpyHostToDevice));
  DT_CUDA_CHECK(cudaMemcpy(device_slot_of_row.as<void>(), slot_of_row.data(), rows * 4, cudaMemcpyHostToDevice));
  const RowMap map{device_row_of_slot.as<int32_t>(), device_slot_of_row.as<int32_t>(), tokens, rows, top_k};
  const std::string name = fmt::format(" {} x {} rows of {}", tokens, top_k, hidden);
  const double token_elements = static_cast<double>(tokens * hidden);
  const double slot_elements = static_cast<double>(slots * hidden);
  const double row_elements = static_cast<double>(rows * hidden);

  session.run({"unpermute" + name, 2 * (slot_elements + token_elements), 0, [&](cudaStream_t stream) {
                 cuda::unpermute_rows(x.as<bfloat16>(), y.as<bfloat16>(), weight.as<float>(), nullptr, nullptr, map,
                                      hidden, stream);
               }});
  session.run({"permute" + name, 2 * (token_elements + row_elements), 0, [&](cudaStream_t stream) {
                 cuda::permute_rows(y.as<bfloat16>(), x.as<bfloat16>(), map, hidden, stream);
               }});
  session.run({"permute backward" + name, 2 * (slot_elements + token_elements), 0, [&](cudaStream_t stream) {
                 cuda::unpermute_rows(x.as<bfloat16>(), y.as<bfloat16>(), nullptr, nullptr, nullptr, map, hidden,
                                      stream);
               }});
  session.run(
      {"unpermute backward" + name, 2 * (token_elements + slot_elements + row_elements), 0, [&](cudaStream_t stream) {
         cuda::unpermute_rows_backward(d_y.as<bfloat16>(), d_weight.as<float>(), x.as<bfloat16>(), y.as<bfloat16>(),
                                       weight.as<float>(), map, hidden, stream);
       }});
  for (const ScaleLayout layout : {ScaleLayout::kRowMajor, ScaleLayout::kColumnMajor}) {
    session.run({fmt::format("quantize permuted, scales {}{}",
                             layout == ScaleLayout::kRowMajor ? "row-major" : "column-major", name),
                 2 * token_elements + row_elements * (1 + 4.0 / 128), 0, [&, layout](cudaStream_t stream) {
                   cuda::quantize_permuted_rows(q.as<float8_e4m3>(), scale.as<float>(), x.as<bfloat16>(), map, hidden,
                                                {ScaleKind::kFloat, layout}, workspace.as<void>(), stream);
                 }});
  }
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

}  // namespace

void benchmark_permute(Session& session) {
  benchmark_rows(session, 32768, 8, 256, 7168);
  benchmark_rows(session, 16384, 6, 64, 2048);
}

}  // namespace deeptitan::benchmark

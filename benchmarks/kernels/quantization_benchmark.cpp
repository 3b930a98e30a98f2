#include <string>
#include <utility>

#include "kernels/cuda/error.h"
#include "kernels/cuda/quantization/quantization.h"
#include "moe_kernels_benchmark.h"

namespace deeptitan::benchmark {

namespace {

std::string shape_name(int64_t rows, int64_t columns) {
  return std::to_string(rows) + " x " + std::to_string(columns);
}

void benchmark_rows(Session& session, int64_t rows, int64_t columns, const QuantizeOptions& options, bool warm) {
  const DeviceMemory x(rows * columns * 2), q(rows * columns), scale(scale_count(rows, columns, options.layout) * 4);
  fill_normal_bf16(x.as<void>(), rows * columns, 1, session.stream());
  const Work work{"quantize 1x128 " + shape_name(rows, columns) +
                      (options.layout == ScaleLayout::kColumnMajor ? ", column-major" : "") +
                      (options.kind == ScaleKind::kPowerOfTwo ? ", powers of two" : ""),
                  static_cast<double>(rows * columns) * (3 + 4.0 / 128), 0, [&](cudaStream_t stream) {
                    cuda::quantize_rows(q.as<float8_e4m3>(), scale.as<float>(), x.as<bfloat16>(), rows, columns,
                                        options, stream);
                  }};
  session.run(work);
  if (warm) session.run_in_graph(work);
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

}  // namespace

void benchmark_quantization(Session& session) {
  for (const QuantizeOptions options : {QuantizeOptions{},
                                        {ScaleKind::kFloat, ScaleLayout::kColumnMajor},
                                        {ScaleKind::kPowerOfTwo, ScaleLayout::kRowMajor}}) {
    benchmark_rows(session, 32768, 7168, options, false);
  }
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{2048, 2048},
                                      {2688, 2048},
                                      {4096, 2048},
                                      {8192, 2048},
                                      {2048, 8192},
                                      {1024, 2048},
                                      {1024, 4096},
                                      {2048, 4096},
                                      {2688, 1408},
                                      {4096, 4096}}) {
    benchmark_rows(session, rows, columns, {}, true);
  }

  constexpr int64_t kRows = 32768, kColumns = 7168, kWidth = 2048;
  constexpr double kElements = static_cast<double>(kRows * kColumns);
  constexpr double kGatedElements = static_cast<double>(kRows * kWidth);
  const DeviceMemory x(kRows * kColumns * 2), q(kRows * kColumns), scale(kRows * kColumns / 32);
  fill_normal_bf16(x.as<void>(), kRows * kColumns, 1, session.stream());
  session.run({"quantize whole rows " + shape_name(kRows, kColumns), kElements * 3, 0, [&](cudaStream_t stream) {
                 cuda::quantize_whole_rows(q.as<float8_e4m3>(), scale.as<float>(), x.as<bfloat16>(), kRows, kColumns,
                                           ScaleKind::kFloat, stream);
               }});
  session.run({"quantize with SwiGLU " + shape_name(kRows, kWidth), kGatedElements * (5 + 4.0 / 128), 0,
               [&](cudaStream_t stream) {
                 const GatedRows gated{x.as<bfloat16>(), x.as<bfloat16>() + kWidth, 2 * kWidth};
                 cuda::quantize_swiglu(q.as<float8_e4m3>(), scale.as<float>(), gated, kRows, kWidth, {}, stream);
               }});
  session.run({"quantize 128x128 16 x 2048 x 7168", kElements * (3 + 4.0 / 16384), 0, [&](cudaStream_t stream) {
                 cuda::quantize_blocks(q.as<float8_e4m3>(), scale.as<float>(), x.as<bfloat16>(), 16, 2048, kColumns,
                                       ScaleKind::kFloat, stream);
               }});
  session.run(
      {"dequantize 1x128 " + shape_name(kRows, kColumns), kElements * (3 + 4.0 / 128), 0, [&](cudaStream_t stream) {
         cuda::dequantize_rows(x.as<bfloat16>(), q.as<float8_e4m3>(), scale.as<float>(), kRows, kColumns,
                               ScaleLayout::kRowMajor, stream);
       }});
  session.run({"dequantize 128x128 16 x 2048 x 7168", kElements * (3 + 4.0 / 16384), 0, [&](cudaStream_t stream) {
                 cuda::dequantize_blocks(x.as<bfloat16>(), q.as<float8_e4m3>(), scale.as<float>(), 16, 2048, kColumns,
                                         stream);
               }});
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

}  // namespace deeptitan::benchmark

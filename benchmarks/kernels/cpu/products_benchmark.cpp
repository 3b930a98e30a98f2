// One square product of ours beside oneDNN's and the multiply-add units' peak, on all threads:
//   products_benchmark --benchmark_filter=bf16

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include <benchmark/benchmark.h>
#include <dnnl.hpp>

#include "kernels/cpu/matmul/matmul.h"
#include "kernels/cpu/peak/peak.h"

namespace deeptitan {
namespace {

constexpr uint8_t kByte = 0x3c;  // repeated: about 0.01, as fp32 and as bf16

void report(benchmark::State& state, double operations_a_call) {
  state.counters["FLOP/s"] =
      benchmark::Counter(operations_a_call * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

double product_operations(int64_t size) {
  const auto n = static_cast<double>(size);
  return 2.0 * n * n * n;
}

/// Multiply-adds on registers alone.
void peak(benchmark::State& state, cpu::OperandType type) {
  double best = 0;
  for (auto _ : state) best = std::max(best, cpu::measure_matrix_peak(type, 0.1));
  state.counters["FLOP/s"] = best;
}

/// C[N, N] in fp32 = A[N, N] times a weight packed before, N = range(0).
template <typename T>
void panel_product(benchmark::State& state, cpu::OperandType type) {
  const int64_t n = state.range(0);
  std::vector<uint8_t> a(static_cast<size_t>(n * n) * sizeof(T), kByte);
  std::vector<uint32_t> packed(static_cast<size_t>(cpu::packed_words(type, n, n)), 0x3c3c3c3cu);
  std::vector<float> c(static_cast<size_t>(n * n));
  for (auto _ : state) {
    cpu::matmul(cpu::MatmulOutput<float>{c.data(), n, false}, reinterpret_cast<const T*>(a.data()), n, packed.data(), n,
                n, n);
  }
  report(state, product_operations(n));
}

void panels_f32(benchmark::State& state) {
  panel_product<float>(state, cpu::OperandType::kFloat);
}
void panels_bf16(benchmark::State& state) {
  panel_product<bfloat16>(state, cpu::OperandType::kBfloat16);
}

/// The same by oneDNN, its weight in its own layout (packed) or row-major.
void onednn(benchmark::State& state, dnnl::memory::data_type type, dnnl::memory::format_tag weight_layout) {
  const int64_t n = state.range(0);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  using Desc = dnnl::memory::desc;
  const Desc plain({n, n}, type, dnnl::memory::format_tag::ab);
  const Desc weight({n, n}, type, weight_layout);
  const Desc result({n, n}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc primitive(engine, plain, weight, result);
#else
  const dnnl::matmul::primitive_desc primitive(dnnl::matmul::desc(plain, weight, result), engine);
#endif
  dnnl::memory a(plain, engine);
  dnnl::memory b(primitive.weights_desc(), engine);
  dnnl::memory c(result, engine);
  for (dnnl::memory* m : {&a, &b}) {
    std::fill_n(static_cast<uint8_t*>(m->get_data_handle()), m->get_desc().get_size(), kByte);
  }
  const dnnl::matmul matmul(primitive);
  const std::unordered_map<int, dnnl::memory> arguments{{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};
  for (auto _ : state) {
    matmul.execute(stream, arguments);
    stream.wait();
  }
  report(state, product_operations(n));
}

using dnnl::memory;

BENCHMARK_CAPTURE(peak, f32, cpu::OperandType::kFloat)->Iterations(3)->UseRealTime();
BENCHMARK_CAPTURE(peak, bf16, cpu::OperandType::kBfloat16)->Iterations(3)->UseRealTime();
BENCHMARK(panels_f32)->Arg(512)->Arg(1024)->Arg(2048)->UseRealTime();
BENCHMARK(panels_bf16)->Arg(512)->Arg(1024)->Arg(2048)->UseRealTime();
BENCHMARK_CAPTURE(onednn, f32_packed, memory::data_type::f32, memory::format_tag::any)->Arg(1024)->UseRealTime();
BENCHMARK_CAPTURE(onednn, bf16_packed, memory::data_type::bf16, memory::format_tag::any)
    ->Arg(512)
    ->Arg(1024)
    ->Arg(2048)
    ->UseRealTime();
BENCHMARK_CAPTURE(onednn, bf16_plain, memory::data_type::bf16, memory::format_tag::ab)->Arg(1024)->UseRealTime();

}  // namespace
}  // namespace deeptitan

BENCHMARK_MAIN();

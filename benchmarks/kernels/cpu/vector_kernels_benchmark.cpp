// The vectorised kernels against what this machine copies. Every benchmark reports the bytes it reads and writes a
// second; Copy moves as many in its own way, from and to buffers of the same size, and so is the limit of the others:
//   vector_kernels_benchmark --benchmark_filter='rms_norm|copy'

#include <cstring>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include "kernels/cpu/activation/swiglu.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cpu/embedding/embedding.h"
#include "kernels/cpu/loss/cross_entropy.h"
#include "kernels/cpu/norm/rms_norm.h"
#include "kernels/cpu/optimizer/adamw.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rope/rope.h"

namespace deeptitan {
namespace {

constexpr int64_t kRows = 2048;
constexpr int64_t kVocab = 4096;

template <typename T>
std::vector<T> normal_values(int64_t n) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = normal(generator);
  if constexpr (std::is_same_v<T, float>) {
    return values;
  } else {
    std::vector<T> result(values.size());
    cpu::convert(result.data(), values.data(), n);
    return result;
  }
}

std::vector<int32_t> token_ids(int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(i * i * 31 % kVocab));
  return ids;
}

void report(benchmark::State& state, int64_t bytes_a_call) {
  state.SetBytesProcessed(state.iterations() * bytes_a_call);
}

/// Reads and writes range(0) rows of range(1) bytes.
void copy(benchmark::State& state) {
  const int64_t bytes = state.range(0) * state.range(1);
  const std::vector<char> from(static_cast<size_t>(bytes), 1);
  std::vector<char> to(from.size());
  for (auto _ : state) {
    cpu::parallel_ranges(bytes, bytes, 4096, [&](int64_t begin, int64_t end) {
      std::memcpy(to.data() + begin, from.data() + begin, static_cast<size_t>(end - begin));
    });
    benchmark::ClobberMemory();
  }
  report(state, 2 * bytes);
}
BENCHMARK(copy)->ArgsProduct({{kRows}, {512, 1024, 2048, 4096, 1 << 16}})->UseRealTime();

template <typename T>
void rms_norm(benchmark::State& state) {
  const int64_t dim = state.range(0);
  const auto x = normal_values<T>(kRows * dim);
  const auto weight = normal_values<float>(dim);
  std::vector<T> out(x.size());
  std::vector<float> rstd(kRows);
  for (auto _ : state) {
    cpu::rms_norm(out.data(), dim, rstd.data(), x.data(), dim, weight.data(), kRows, dim, 1e-6f);
    benchmark::ClobberMemory();
  }
  report(state, 2 * kRows * dim * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void add_rms_norm(benchmark::State& state) {
  const int64_t dim = state.range(0);
  const auto a = normal_values<T>(kRows * dim), b = normal_values<T>(kRows * dim);
  const auto weight = normal_values<float>(dim);
  std::vector<T> sum(a.size()), out(a.size());
  std::vector<float> rstd(kRows);
  for (auto _ : state) {
    cpu::add_rms_norm(sum.data(), out.data(), rstd.data(), a.data(), b.data(), weight.data(), kRows, dim, 1e-6f);
    benchmark::ClobberMemory();
  }
  report(state, 4 * kRows * dim * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void rms_norm_backward_input(benchmark::State& state) {
  const int64_t dim = state.range(0);
  const auto x = normal_values<T>(kRows * dim), d_out = normal_values<T>(kRows * dim);
  const auto weight = normal_values<float>(dim), rstd = normal_values<float>(kRows);
  std::vector<T> d_x(x.size());
  for (auto _ : state) {
    cpu::rms_norm_backward_input(d_x.data(), dim, d_out.data(), dim, x.data(), dim, rstd.data(), weight.data(), kRows,
                                 dim, false);
    benchmark::ClobberMemory();
  }
  report(state, 3 * kRows * dim * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void rms_norm_backward_weight(benchmark::State& state) {
  const int64_t dim = state.range(0);
  const auto x = normal_values<T>(kRows * dim), d_out = normal_values<T>(kRows * dim);
  const auto rstd = normal_values<float>(kRows);
  std::vector<float> d_weight(static_cast<size_t>(dim));
  std::vector<float> workspace(static_cast<size_t>(cpu::rms_norm_backward_weight_workspace(kRows, dim)));
  for (auto _ : state) {
    cpu::rms_norm_backward_weight(d_weight.data(), d_out.data(), dim, x.data(), dim, rstd.data(), kRows, dim,
                                  workspace.data());
    benchmark::ClobberMemory();
  }
  report(state, 2 * kRows * dim * static_cast<int64_t>(sizeof(T)));
}

/// range(0) / 64 heads of 96 columns, of which the last 32 are rotated: the queries of the shapes small and wide.
template <typename T>
void rope_rotate(benchmark::State& state) {
  const int64_t rope_dim = 32, head = 96, heads = state.range(0) / 64;
  auto x = normal_values<T>(kRows * heads * head);
  const auto cos = normal_values<float>(kRows * rope_dim / 2), sin = normal_values<float>(kRows * rope_dim / 2);
  std::vector<int32_t> positions;
  for (int32_t r = 0; r < kRows; ++r) positions.push_back(r);
  for (auto _ : state) {
    cpu::rope_rotate(x.data() + 64, heads * head, heads, head, rope_dim, cos.data(), sin.data(), positions.data(),
                     kRows, false);
    benchmark::ClobberMemory();
  }
  report(state, 2 * kRows * heads * rope_dim * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void swiglu(benchmark::State& state) {
  const int64_t width = state.range(0);
  const auto gate_up = normal_values<T>(2 * kRows * width);
  std::vector<T> out(static_cast<size_t>(kRows * width));
  for (auto _ : state) {
    cpu::swiglu(out.data(), gate_up.data(), gate_up.data() + width, 2 * width, kRows, width);
    benchmark::ClobberMemory();
  }
  report(state, 3 * kRows * width * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void swiglu_backward(benchmark::State& state) {
  const int64_t width = state.range(0);
  const auto gate_up = normal_values<T>(2 * kRows * width), d_out = normal_values<T>(kRows * width);
  std::vector<T> d_gate_up(gate_up.size());
  for (auto _ : state) {
    cpu::swiglu_backward(d_gate_up.data(), d_gate_up.data() + width, 2 * width, d_out.data(), gate_up.data(),
                         gate_up.data() + width, 2 * width, kRows, width);
    benchmark::ClobberMemory();
  }
  report(state, 5 * kRows * width * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void embedding_gather(benchmark::State& state) {
  const int64_t dim = state.range(0);
  const auto table = normal_values<T>(kVocab * dim);
  const auto ids = token_ids(kRows);
  std::vector<T> out(static_cast<size_t>(kRows * dim));
  for (auto _ : state) {
    cpu::embedding_gather(out.data(), table.data(), ids.data(), kRows, dim);
    benchmark::ClobberMemory();
  }
  report(state, 2 * kRows * dim * static_cast<int64_t>(sizeof(T)));
}

template <typename T>
void embedding_scatter_add(benchmark::State& state) {
  const int64_t dim = state.range(0);
  const auto d_out = normal_values<T>(kRows * dim);
  const auto ids = token_ids(kRows);
  std::vector<float> d_table(static_cast<size_t>(kVocab * dim));
  for (auto _ : state) {
    cpu::embedding_scatter_add(d_table.data(), d_out.data(), ids.data(), kRows, dim);
    benchmark::ClobberMemory();
  }
  report(state, kRows * dim * static_cast<int64_t>(sizeof(T) + 2 * sizeof(float)));
}

/// range(0) rows of a vocabulary of 4096, as a chunk of the fused head has them.
template <typename T>
void softmax_cross_entropy(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto logits = normal_values<float>(rows * kVocab);
  const auto targets = token_ids(rows);
  std::vector<float> loss(static_cast<size_t>(rows));
  std::vector<T> d_logits(logits.size());
  for (auto _ : state) {
    cpu::softmax_cross_entropy(loss.data(), d_logits.data(), kVocab, logits.data(), kVocab, targets.data(), 1.0f, rows,
                               kVocab);
    benchmark::ClobberMemory();
  }
  report(state, rows * kVocab * static_cast<int64_t>(sizeof(T) + sizeof(float)));
}

template <typename T>
void add(benchmark::State& state) {
  const int64_t n = kRows * state.range(0);
  const auto a = normal_values<T>(n), b = normal_values<T>(n);
  std::vector<T> out(a.size());
  for (auto _ : state) {
    cpu::add(out.data(), a.data(), b.data(), n);
    benchmark::ClobberMemory();
  }
  report(state, 3 * n * static_cast<int64_t>(sizeof(T)));
}

template <typename Out, typename In>
void convert(benchmark::State& state) {
  const int64_t n = kRows * state.range(0);
  const auto in = normal_values<In>(n);
  std::vector<Out> out(in.size());
  for (auto _ : state) {
    cpu::convert(out.data(), in.data(), n);
    benchmark::ClobberMemory();
  }
  report(state, n * static_cast<int64_t>(sizeof(Out) + sizeof(In)));
}

template <typename T>
void all_finite(benchmark::State& state) {
  const int64_t n = kRows * state.range(0);
  const auto x = normal_values<T>(n);
  for (auto _ : state) benchmark::DoNotOptimize(cpu::all_finite(x.data(), n));
  report(state, n * static_cast<int64_t>(sizeof(T)));
}

#define DT_BENCHMARK(name, ...) BENCHMARK_TEMPLATE(name, __VA_ARGS__)->Arg(256)->Arg(1024)->UseRealTime()
DT_BENCHMARK(rms_norm, float);
DT_BENCHMARK(rms_norm, bfloat16);
DT_BENCHMARK(add_rms_norm, float);
DT_BENCHMARK(add_rms_norm, bfloat16);
DT_BENCHMARK(rms_norm_backward_input, float);
DT_BENCHMARK(rms_norm_backward_input, bfloat16);
DT_BENCHMARK(rms_norm_backward_weight, float);
DT_BENCHMARK(rms_norm_backward_weight, bfloat16);
DT_BENCHMARK(rope_rotate, float);
DT_BENCHMARK(rope_rotate, bfloat16);
DT_BENCHMARK(swiglu, float);
DT_BENCHMARK(swiglu, bfloat16);
DT_BENCHMARK(swiglu_backward, float);
DT_BENCHMARK(swiglu_backward, bfloat16);
DT_BENCHMARK(embedding_gather, float);
DT_BENCHMARK(embedding_gather, bfloat16);
DT_BENCHMARK(embedding_scatter_add, float);
DT_BENCHMARK(embedding_scatter_add, bfloat16);
DT_BENCHMARK(softmax_cross_entropy, float);
DT_BENCHMARK(softmax_cross_entropy, bfloat16);
DT_BENCHMARK(add, float);
DT_BENCHMARK(add, bfloat16);
DT_BENCHMARK(convert, bfloat16, float);
DT_BENCHMARK(convert, float, bfloat16);
DT_BENCHMARK(all_finite, float);
DT_BENCHMARK(all_finite, bfloat16);

/// range(0) parameters: those of a small and of a large model.
void adamw_update(benchmark::State& state) {
  const int64_t n = state.range(0);
  auto parameter = normal_values<float>(n);
  const auto gradient = normal_values<float>(n);
  std::vector<float> m(parameter.size()), v(parameter.size());
  for (auto _ : state) {
    cpu::adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), n, 1e-6, 0.1, 1.0f, 1000, {});
    benchmark::ClobberMemory();
  }
  report(state, 7 * n * static_cast<int64_t>(sizeof(float)));
}
BENCHMARK(adamw_update)->Arg(1 << 18)->Arg(1 << 23)->UseRealTime();

void sum_of_squares(benchmark::State& state) {
  const int64_t n = state.range(0);
  const auto x = normal_values<float>(n);
  for (auto _ : state) benchmark::DoNotOptimize(cpu::sum_of_squares(x.data(), n));
  report(state, n * static_cast<int64_t>(sizeof(float)));
}
BENCHMARK(sum_of_squares)->Arg(1 << 18)->Arg(1 << 23)->UseRealTime();

}  // namespace
}  // namespace deeptitan

BENCHMARK_MAIN();

#include "kernels/cpu/peak/peak.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include <dnnl.hpp>

#include "core/clock.h"

namespace deeptitan::cpu {
namespace {

constexpr int64_t kSize = 1024;
constexpr int64_t kBandwidthBytes = 256 << 20;

// The best time of `run`, repeated for `seconds` and at least three times.
template <typename Run>
double best_time(double seconds, const Run& run) {
  const double end = monotonic_seconds() + seconds;
  double best = 1e300;
  for (int i = 0; i < 3 || monotonic_seconds() < end; ++i) {
    const double start = monotonic_seconds();
    run();
    best = std::min(best, monotonic_seconds() - start);
  }
  return best;
}

}  // namespace

double measure_matrix_peak(OperandType type, double seconds) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  using Desc = dnnl::memory::desc;
  const auto dtype = type == OperandType::kBfloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  const Desc plain({kSize, kSize}, dtype, dnnl::memory::format_tag::ab);
  const Desc packed({kSize, kSize}, dtype, dnnl::memory::format_tag::any);
  const Desc result({kSize, kSize}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc primitive(engine, plain, packed, result);
#else
  const dnnl::matmul::primitive_desc primitive(dnnl::matmul::desc(plain, packed, result), engine);
#endif
  dnnl::memory a(plain, engine);
  dnnl::memory b(primitive.weights_desc(), engine);
  dnnl::memory c(result, engine);
  for (dnnl::memory* m : {&a, &b}) {
    auto* bytes = static_cast<uint8_t*>(m->get_data_handle());
    std::fill_n(bytes, m->get_desc().get_size(), uint8_t{0x3c});  // small normal numbers in either type
  }
  const dnnl::matmul matmul(primitive);
  const std::unordered_map<int, dnnl::memory> arguments{{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};
  const double time = best_time(seconds, [&] {
    matmul.execute(stream, arguments);
    stream.wait();
  });
  return 2.0 * kSize * kSize * kSize / time;
}

double measure_read_bandwidth(double seconds) {
  const std::vector<uint64_t> buffer(kBandwidthBytes / sizeof(uint64_t), 1);
  uint64_t sink = 0;
  const double time = best_time(seconds, [&] {
    uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
    for (size_t i = 0; i < buffer.size(); ++i) sum += buffer[i];
    sink += sum;
  });
  return sink == 0 ? 0.0 : static_cast<double>(kBandwidthBytes) / time;
}

}  // namespace deeptitan::cpu

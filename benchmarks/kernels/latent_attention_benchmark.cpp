// Times attention over cached latents, as in decoding: sequences of one token each, their entries in pages that lie
// anywhere. An argument is part of the names to run.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/cuda_device.h"
#include "cublas_peak.h"
#include "harness.h"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/attention/sm90_latent_attention.h"
#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {
namespace {

constexpr int64_t kLatent = 512, kRope = 64, kWidth = kLatent + kRope, kPageSize = 64;

template <typename T>
DeviceMemory upload(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  DT_CUDA_CHECK(cudaMemcpy(memory.as<void>(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

void benchmark_case(Session& session, int64_t sequences, int64_t cached, int64_t heads) {
  const int64_t pages = (cached + kPageSize - 1) / kPageSize;
  std::vector<int32_t> table(sequences * pages), offset(sequences + 1);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  std::iota(offset.begin(), offset.end(), 0);
  const std::vector<int32_t> length(sequences, static_cast<int32_t>(cached - 1));  // the token's own is the last
  const DeviceMemory device_table = upload(table), device_offset = upload(offset), device_length = upload(length);
  const int64_t entries = sequences * pages * kPageSize;
  const DeviceMemory cache(entries * kWidth * 2), query(sequences * heads * kWidth * 2),
      out(sequences * heads * kLatent * 2),
      workspace(std::max(cuda::latent_tiles_workspace(sequences, heads, kLatent, cached),
                         cuda::sm90_latent_attention_workspace(sequences, heads, cached)) *
                static_cast<int64_t>(sizeof(float)));
  fill_normal_bf16(cache.as<void>(), entries * kWidth, 1, session.stream());
  fill_normal_bf16(query.as<void>(), sequences * heads * kWidth, 2, session.stream());
  const cuda::LatentRows<bfloat16> rows{.query = query.as<bfloat16>(),
                                        .cache = cache.as<bfloat16>(),
                                        .rows = {device_offset.as<int32_t>(), sequences, 0, 63},
                                        .cached_length = device_length.as<int32_t>(),
                                        .page_table = device_table.as<int32_t>(),
                                        .page_table_stride = pages,
                                        .page_size = kPageSize,
                                        .tokens = sequences,
                                        .heads = heads,
                                        .latent_dim = kLatent,
                                        .rope_dim = kRope,
                                        .scale = 0.05f};
  const auto pairs = static_cast<double>(sequences * cached);
  const auto ends = static_cast<double>(sequences * heads);
  const bool by_warpgroups = cuda::capability_major(0) == 9 && cuda::sm90_latent_attention_fits(rows);
  const auto attend = by_warpgroups ? cuda::sm90_latent_attention : cuda::latent_attention_by_tiles;
  session.run({"latent attention, " + std::to_string(sequences) + " sequences of " + std::to_string(cached) + ", " +
                   std::to_string(heads) + " heads" + (by_warpgroups ? ", sm90" : ""),
               2 * (pairs * kWidth + ends * (kWidth + kLatent)),
               2 * pairs * static_cast<double>(heads) * (kWidth + kLatent),
               [&](cudaStream_t stream) { attend(out.as<bfloat16>(), rows, cached, workspace.as<float>(), stream); }});
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

}  // namespace
}  // namespace deeptitan::benchmark

int main(int argument_count, char** arguments) {
  using namespace deeptitan::benchmark;
  Session session(argument_count > 1 ? arguments[1] : "");
  {
    const CublasPeak peak;
    session.set_matrix_peak(
        {"cuBLASLt, bf16, 8192^3", 0, CublasPeak::kFlops, [&](cudaStream_t stream) { peak.launch(stream); }});
  }
  benchmark_case(session, 1, 512, 16);
  benchmark_case(session, 32, 4096, 16);
  benchmark_case(session, 128, 4096, 16);
  benchmark_case(session, 256, 512, 16);
  for (const int64_t sequences : {1, 16, 32, 64, 128}) benchmark_case(session, sequences, 4096, 128);
  return 0;
}

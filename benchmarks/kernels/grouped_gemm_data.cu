#include "grouped_gemm_data.h"

#include "core/random.h"
#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {

namespace {

struct ToE4m3 {
  __device__ float8_e4m3 operator()(uint64_t seed, int64_t i) const {
    return to_float8_e4m3(100.0f * random_normal(seed, i));
  }
};
struct ToScale {
  __device__ float operator()(uint64_t seed, int64_t i) const { return 0.005f + 0.01f * random_uniform(seed, i); }
};

template <typename T, typename Make>
__global__ void fill_kernel(T* out, int64_t count, uint64_t seed, Make make) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    out[i] = make(seed, i);
  }
}

template <typename T, typename Make>
void fill(T* out, int64_t count, uint64_t seed, Make make, cudaStream_t stream) {
  fill_kernel<<<2048, 256, 0, stream>>>(out, count, seed, make);
  cuda::check_launch("fill_kernel");
}

}  // namespace

void fill_normal_e4m3(float8_e4m3* out, int64_t count, uint64_t seed, cudaStream_t stream) {
  fill(out, count, seed, ToE4m3{}, stream);
}
void fill_scales(float* out, int64_t count, uint64_t seed, cudaStream_t stream) {
  fill(out, count, seed, ToScale{}, stream);
}

}  // namespace deeptitan::benchmark

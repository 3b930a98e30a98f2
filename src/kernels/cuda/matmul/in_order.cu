#include <cuda_pipeline.h>

#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/in_order.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

/// A tile's rows of an operand, kSteps of them along K; the padding puts rows that are read together into banks of
/// their own.
template <typename T, int kRows, int kSteps>
struct Stage {
  static constexpr int kWord = 16 / sizeof(T);  // elements that are copied at a time
  T row[kRows][kSteps + kWord];
};

/// Sums that a thread has along each side, threads along each side of a tile, steps along K at a time, stages of them.
template <int kRowsEach_, int kColumnsEach_, int kThreadRows_, int kThreadColumns_, int kSteps_, int kStages_>
struct InOrderShape {
  static constexpr int kRowsEach = kRowsEach_, kColumnsEach = kColumnsEach_;
  static constexpr int kThreadRows = kThreadRows_, kThreadColumns = kThreadColumns_;
  static constexpr int kSteps = kSteps_, kStages = kStages_;
  static constexpr int kThreads = kThreadRows * kThreadColumns;
  static constexpr int kRows = kRowsEach * kThreadRows, kColumns = kColumnsEach * kThreadColumns;  // of a tile
};

/// Starts copying rows first .. first + kRows - 1 of `source` from step k on; zeros beyond `count` and `steps`.
template <int kThreads, typename T, int kRows, int kSteps>
__device__ void fetch(Stage<T, kRows, kSteps>& stage, const T* source, int64_t stride, int64_t first, int64_t count,
                      int64_t k, int64_t steps) {
  constexpr int kWord = Stage<T, kRows, kSteps>::kWord;
  constexpr int kChunks = kSteps / kWord;
#pragma unroll
  for (int part = 0; part < (kRows * kChunks + kThreads - 1) / kThreads; ++part) {
    const int chunk = static_cast<int>(threadIdx.x) + part * kThreads;
    if (kRows * kChunks % kThreads != 0 && chunk >= kRows * kChunks) break;
    const int row = chunk / kChunks;
    const int step = chunk % kChunks * kWord;
    const bool inside = first + row < count && k + step < steps;
    const T* from = inside ? source + (first + row) * stride + k + step : source;
    __pipeline_memcpy_async(&stage.row[row][step], from, 16, inside ? 0 : 16);
  }
}

template <typename T, typename Shape>
struct InOrderStage {
  Stage<T, Shape::kRows, Shape::kSteps> x;
  Stage<float, Shape::kColumns, Shape::kSteps> weight;
};

/// A thread's rows and columns lie kThreadRows and kThreadColumns apart, so that a warp's are in banks of their own.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) in_order_kernel(const InOrderProduct<T> p) {
  constexpr int kStages = Shape::kStages, kSteps = Shape::kSteps;
  extern __shared__ __align__(16) char dynamic[];
  auto* const stages = reinterpret_cast<InOrderStage<T, Shape>*>(dynamic);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Shape::kRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * Shape::kColumns;
  const int row = static_cast<int>(threadIdx.x) / Shape::kThreadColumns;
  const int column = static_cast<int>(threadIdx.x) % Shape::kThreadColumns;
  const auto slices = static_cast<int>((p.inputs + kSteps - 1) / kSteps);
  const auto fetch_slice = [&](int slice) {
    if (slice < slices) {
      const int64_t k = static_cast<int64_t>(slice) * kSteps;
      InOrderStage<T, Shape>& stage = stages[slice % kStages];
      fetch<Shape::kThreads>(stage.x, p.x, p.ld_x, first_row, p.rows, k, p.inputs);
      fetch<Shape::kThreads>(stage.weight, p.weight, p.inputs, first_column, p.outputs, k, p.inputs);
    }
    __pipeline_commit();  // one a slice, empty or not, so that waiting counts slices
  };
#pragma unroll
  for (int slice = 0; slice < kStages - 1; ++slice) fetch_slice(slice);
  float sum[Shape::kRowsEach][Shape::kColumnsEach] = {};
  for (int slice = 0; slice < slices; ++slice) {
    __pipeline_wait_prior(kStages - 2);
    __syncthreads();  // the slice is there for all, and all have left the stage that is filled next
    fetch_slice(slice + kStages - 1);
    const InOrderStage<T, Shape>& stage = stages[slice % kStages];
#pragma unroll
    for (int step = 0; step < kSteps; step += kVector) {
      Floats<kVector> left[Shape::kRowsEach], right[Shape::kColumnsEach];
#pragma unroll
      for (int i = 0; i < Shape::kRowsEach; ++i) {
        left[i] = load_floats<kVector>(&stage.x.row[row + i * Shape::kThreadRows][step]);
      }
#pragma unroll
      for (int j = 0; j < Shape::kColumnsEach; ++j) {
        right[j] = load_floats<kVector>(&stage.weight.row[column + j * Shape::kThreadColumns][step]);
      }
#pragma unroll
      for (int at = 0; at < kVector; ++at) {
#pragma unroll
        for (int i = 0; i < Shape::kRowsEach; ++i) {
#pragma unroll
          for (int j = 0; j < Shape::kColumnsEach; ++j) {
            sum[i][j] = exact_fma(left[i].at[at], right[j].at[at], sum[i][j]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Shape::kRowsEach; ++i) {
    const int64_t m = first_row + row + i * Shape::kThreadRows;
#pragma unroll
    for (int j = 0; j < Shape::kColumnsEach; ++j) {
      const int64_t n = first_column + column + j * Shape::kThreadColumns;
      if (m < p.rows && n < p.outputs) p.y[m * p.ld_y + n] = sum[i][j];
    }
  }
}

template <typename Shape, typename T>
void launch(const InOrderProduct<T>& p, cudaStream_t stream) {
  constexpr int kSharedBytes = Shape::kStages * sizeof(InOrderStage<T, Shape>);
  static const bool allowed = [] {
    DT_CUDA_CHECK(
        cudaFuncSetAttribute(in_order_kernel<T, Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(allowed);
  const dim3 grid(static_cast<unsigned>((p.rows + Shape::kRows - 1) / Shape::kRows),
                  static_cast<unsigned>((p.outputs + Shape::kColumns - 1) / Shape::kColumns));
  in_order_kernel<T, Shape><<<grid, Shape::kThreads, kSharedBytes, stream>>>(p);
  check_launch("in_order_kernel");
}

// Tiles are small while there are so few that each sum's chain of additions is what takes time; larger where they fill
// the chip, and the operands' way from shared memory counts.
template <typename T>
void launch_product(const InOrderProduct<T>& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.outputs <= 0) return;
  constexpr int64_t kFewResults = 768 * 64, kMoreResults = 1536 * 64, kManyResults = 4096 * 64;
  const int64_t results = p.rows * p.outputs;
  if (results <= kFewResults) {
    launch<InOrderShape<2, 1, 8, 16, 256, 3>>(p, stream);
  } else if (results <= kMoreResults) {
    launch<InOrderShape<2, 1, 16, 16, 128, 4>>(p, stream);
  } else if (results <= kManyResults) {
    launch<InOrderShape<2, 4, 16, 8, 64, 4>>(p, stream);
  } else {
    launch<InOrderShape<4, 4, 16, 16, 64, 3>>(p, stream);
  }
}

constexpr int kGradientRows = 64, kGradientColumns = 128, kGradientSteps = 32;
constexpr int kGradientThreads = 256;
constexpr int kRowsEach = kGradientRows / (kGradientThreads / kWarp);

/// A block has a tile of 64 x 128; a thread 8 rows of four neighbours, a warp's 128 columns. d_y lies in shared memory
/// by steps, so that a warp reads one word of it for four rows.
template <typename T>
__global__ void __launch_bounds__(kGradientThreads) in_order_gradient_kernel(const InOrderGradient<T> p) {
  __shared__ __align__(16) float left[kGradientSteps][kGradientRows + kVector];
  __shared__ __align__(16) float right[kGradientSteps][kGradientColumns];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kGradientRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * kGradientColumns;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = first_column + lane * kVector;
  float sum[kRowsEach][kVector] = {};
  for (int64_t k = 0; k < p.steps; k += kGradientSteps) {
    constexpr int kLeftChunks = kGradientSteps / kVector;
#pragma unroll
    for (int part = 0; part < kGradientRows * kLeftChunks / kGradientThreads; ++part) {
      const int chunk = static_cast<int>(threadIdx.x) + part * kGradientThreads;
      const int row = chunk / kLeftChunks, step = chunk % kLeftChunks * kVector;
      float4 word{};
      if (first_row + row < p.rows && k + step < p.steps) {
        word = *reinterpret_cast<const float4*>(p.d_y + (first_row + row) * p.ld_d_y + k + step);
      }
      left[step][row] = word.x;
      left[step + 1][row] = word.y;
      left[step + 2][row] = word.z;
      left[step + 3][row] = word.w;
    }
#pragma unroll
    for (int part = 0; part < kGradientSteps * kWarp / kGradientThreads; ++part) {
      const int step = warp + part * (kGradientThreads / kWarp);
      float4 word{};
      if (k + step < p.steps && column < p.columns) {
        word = *reinterpret_cast<const float4*>(p.weight + (k + step) * p.columns + column);
      }
      *reinterpret_cast<float4*>(&right[step][lane * kVector]) = word;
    }
    __syncthreads();
    const int steps = static_cast<int>(p.steps - k < kGradientSteps ? p.steps - k : kGradientSteps);
#pragma unroll 8
    for (int step = 0; step < steps; ++step) {
      const float4 w = *reinterpret_cast<const float4*>(&right[step][lane * kVector]);
      float d[kRowsEach];
#pragma unroll
      for (int i = 0; i < kRowsEach; i += kVector) {
        const float4 four = *reinterpret_cast<const float4*>(&left[step][warp * kRowsEach + i]);
        d[i] = four.x, d[i + 1] = four.y, d[i + 2] = four.z, d[i + 3] = four.w;
      }
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i) {
        sum[i][0] = exact_fma(d[i], w.x, sum[i][0]);
        sum[i][1] = exact_fma(d[i], w.y, sum[i][1]);
        sum[i][2] = exact_fma(d[i], w.z, sum[i][2]);
        sum[i][3] = exact_fma(d[i], w.w, sum[i][3]);
      }
    }
    __syncthreads();
  }
  if (column >= p.columns) return;
#pragma unroll
  for (int i = 0; i < kRowsEach; ++i) {
    const int64_t row = first_row + warp * kRowsEach + i;
    if (row >= p.rows) break;
    T* to = p.d_x + row * p.ld_d_x + column;
    Floats<kVector> x{};
    if (p.accumulate) x = load_floats<kVector>(to);
#pragma unroll
    for (int j = 0; j < kVector; ++j) x.at[j] = p.accumulate ? exact_add(x.at[j], sum[i][j]) : sum[i][j];
    store_floats(to, x);
  }
}

template <typename T>
void launch_gradient(const InOrderGradient<T>& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.columns <= 0) return;
  const dim3 grid(static_cast<unsigned>((p.rows + kGradientRows - 1) / kGradientRows),
                  static_cast<unsigned>((p.columns + kGradientColumns - 1) / kGradientColumns));
  in_order_gradient_kernel<<<grid, kGradientThreads, 0, stream>>>(p);
  check_launch("in_order_gradient_kernel");
}

}  // namespace

template <typename T>
bool in_order_gradient_fits(const InOrderGradient<T>& p) {
  return p.steps <= kFewSteps && p.steps % kVector == 0 && p.columns % kVector == 0 && takes_vectors(p.d_x, p.ld_d_x) &&
         takes_vectors(p.d_y, p.ld_d_y) && takes_vectors(p.weight, p.columns);
}
template bool in_order_gradient_fits(const InOrderGradient<float>&);
template bool in_order_gradient_fits(const InOrderGradient<bfloat16>&);

void multiply_gradient_in_order(const InOrderGradient<float>& gradient, cudaStream_t stream) {
  launch_gradient(gradient, stream);
}
void multiply_gradient_in_order(const InOrderGradient<bfloat16>& gradient, cudaStream_t stream) {
  launch_gradient(gradient, stream);
}

template <typename T>
bool in_order_fits(const InOrderProduct<T>& p) {
  const auto aligned = [](const auto* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * static_cast<int64_t>(sizeof *data) % 16 == 0;
  };
  return p.outputs <= kFewColumns && p.inputs % (16 / static_cast<int64_t>(sizeof(T))) == 0 && aligned(p.x, p.ld_x) &&
         aligned(p.weight, p.inputs);
}
template bool in_order_fits(const InOrderProduct<float>&);
template bool in_order_fits(const InOrderProduct<bfloat16>&);

void multiply_in_order(const InOrderProduct<float>& product, cudaStream_t stream) {
  launch_product(product, stream);
}
void multiply_in_order(const InOrderProduct<bfloat16>& product, cudaStream_t stream) {
  launch_product(product, stream);
}

}  // namespace deeptitan::cuda

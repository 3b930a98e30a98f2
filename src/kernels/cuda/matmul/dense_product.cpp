#include "kernels/cuda/matmul/dense_product.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/cublas_lt.h"

namespace deeptitan::cuda {
namespace {

void check_cublas(cublasStatus_t status, const char* call) {
  DT_CHECK(status == CUBLAS_STATUS_SUCCESS, "{} failed: {}", call, cublas_lt().status_string(status));
}
#define DT_CUBLAS_CHECK(call) check_cublas(call, #call)

template <typename T, auto CublasLt::*destroy>
struct Destroy {
  void operator()(T object) const { (void)(cublas_lt().*destroy)(object); }
};
template <typename T, auto CublasLt::*destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy<T, destroy>>;
using Descriptor = Owned<cublasLtMatmulDesc_t, &CublasLt::desc_destroy>;
using Layout = Owned<cublasLtMatrixLayout_t, &CublasLt::layout_destroy>;
using Preference = Owned<cublasLtMatmulPreference_t, &CublasLt::preference_destroy>;

/// The process's cuBLASLt handle; usable from any thread and for any device.
cublasLtHandle_t cublas() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t created;
    DT_CUBLAS_CHECK(cublas_lt().create(&created));
    return created;
  }();
  return handle;
}

/// What decides an algorithm.
using Key = std::array<int64_t, 17>;

struct Sizes {
  int64_t m, n, k;
};
Sizes sizes_of(const DenseProduct& p) {
  return {p.left.transposed ? p.left.columns : p.left.rows, p.right.transposed ? p.right.rows : p.right.columns,
          p.left.transposed ? p.left.rows : p.left.columns};
}

/// The count of rows that stands for all of a class: of 512, 1024 and 2048 rows at most, the most.
int64_t representative(int64_t rows) {
  constexpr int64_t kOfBulk = 4096;
  if (rows <= kBatchRows) return kBatchRows / 2;
  return std::min(kOfBulk, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))));
}

/// A row-major matrix. cuBLASLt counts in columns: the same memory is its transpose there.
Layout make_layout(cudaDataType type, int64_t rows, int64_t columns, int64_t stride, int64_t batches, int64_t batch) {
  cublasLtMatrixLayout_t created;
  DT_CUBLAS_CHECK(
      cublas_lt().layout_create(&created, type, static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), stride));
  Layout layout(created);
  const auto count = static_cast<int32_t>(batches);
  DT_CUBLAS_CHECK(cublas_lt().layout_set_attribute(created, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
  DT_CUBLAS_CHECK(
      cublas_lt().layout_set_attribute(created, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &batch, sizeof batch));
  return layout;
}

/// output^T = op(right)^T op(left)^T in cuBLASLt's column order, so right comes first.
struct Problem {
  Descriptor descriptor;
  Layout first, second, output;

  Problem(const DenseProduct& p, int64_t m) {
    cublasLtMatmulDesc_t created;
    DT_CUBLAS_CHECK(cublas_lt().desc_create(&created, p.f32_operands ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F,
                                            CUDA_R_32F));
    descriptor.reset(created);
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.right.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.left.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.max_multiprocessors > 0) {
      set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, static_cast<int32_t>(p.max_multiprocessors));
    }
    const cudaDataType operand = p.f32_operands ? CUDA_R_32F : CUDA_R_16BF;
    first = make_layout(operand, p.right.rows, p.right.columns, p.right.stride, p.batches, p.right.batch);
    second = make_layout(operand, p.left.transposed ? p.left.rows : m, p.left.transposed ? m : p.left.columns,
                         p.left.stride, p.batches, p.left.batch);
    output = make_layout(p.f32_output ? CUDA_R_32F : CUDA_R_16BF, m, sizes_of(p).n, p.output_stride, p.batches,
                         p.output_batch);
  }

 private:
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) const {
    DT_CUBLAS_CHECK(cublas_lt().desc_set_attribute(descriptor.get(), attribute, &value, sizeof value));
  }
};

Preference make_preference(bool split) {
  cublasLtMatmulPreference_t created;
  DT_CUBLAS_CHECK(cublas_lt().preference_create(&created));
  Preference preference(created);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    DT_CUBLAS_CHECK(cublas_lt().preference_set_attribute(created, attribute, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kDenseWorkspaceBytes));
  // Parts of a split sum are added up in an order of their own, not in that of their arrival.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(split ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE));
  for (const cublasLtMatmulPreferenceAttributes_t operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(operand, uint32_t{16});
  }
  return preference;
}

/// The library's first proposal for the representative count of rows that takes the real one.
cublasLtMatmulAlgo_t choose_algorithm(const DenseProduct& p, const Problem& problem) {
  const auto [m, n, k] = sizes_of(p);
  // Where few rows leave few tiles the sum is split, into parts that are the algorithm's, not the rows'.
  const Preference preference = make_preference(!p.whole_class || m <= kBatchRows);
  std::array<cublasLtMatmulHeuristicResult_t, 16> found;
  const int64_t rows[] = {p.whole_class ? representative(m) : m, m};
  for (const int64_t proposed_for : rows) {
    const Problem proposed(p, proposed_for);
    int count = 0;
    const cublasStatus_t status = cublas_lt().algo_get_heuristic(
        cublas(), proposed.descriptor.get(), proposed.first.get(), proposed.second.get(), proposed.output.get(),
        proposed.output.get(), preference.get(), static_cast<int>(found.size()), found.data(), &count);
    if (status != CUBLAS_STATUS_SUCCESS) count = 0;
    for (int i = 0; i < count; ++i) {
      if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
      cublasLtMatmulHeuristicResult_t checked{};
      const cublasStatus_t fits =
          cublas_lt().algo_check(cublas(), problem.descriptor.get(), problem.first.get(), problem.second.get(),
                                 problem.output.get(), problem.output.get(), &found[i].algo, &checked);
      if (fits == CUBLAS_STATUS_SUCCESS && checked.workspaceSize <= kDenseWorkspaceBytes) return found[i].algo;
    }
  }
  fail("cuBLASLt has no algorithm for a {} product of {} x {} over {}", p.f32_operands ? "f32" : "bf16", m, n, k);
}

cublasLtMatmulAlgo_t algorithm_of(const DenseProduct& p, const Problem& problem) {
  static std::mutex mutex;
  static std::map<Key, cublasLtMatmulAlgo_t> chosen;
  int device = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  const auto [m, n, k] = sizes_of(p);
  const Key key{device,
                m,
                n,
                k,
                p.left.stride,
                p.right.stride,
                p.output_stride,
                static_cast<int64_t>(p.f32_operands) * 2 + static_cast<int64_t>(p.f32_output),
                p.left.transposed,
                p.right.transposed,
                p.accumulate,
                p.whole_class,
                p.max_multiprocessors,
                p.batches,
                p.left.batch,
                p.right.batch,
                p.output_batch};
  const std::lock_guard lock(mutex);
  const auto found = chosen.find(key);
  if (found != chosen.end()) return found->second;
  return chosen.emplace(key, choose_algorithm(p, problem)).first->second;
}

bool aligned(const void* data, int64_t stride, int64_t batch, bool f32) {
  const int64_t element = f32 ? 4 : 2;
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * element % 16 == 0 && batch * element % 16 == 0;
}

}  // namespace

bool dense_product_fits(const DenseProduct& p) {
  return aligned(p.output, p.output_stride, p.output_batch, p.f32_output) &&
         aligned(p.left.data, p.left.stride, p.left.batch, p.f32_operands) &&
         aligned(p.right.data, p.right.stride, p.right.batch, p.f32_operands);
}

void multiply_dense(const DenseProduct& p, void* workspace, cudaStream_t stream) {
  const auto [m, n, k] = sizes_of(p);
  if (m <= 0 || n <= 0) return;
  const Problem problem(p, m);
  const cublasLtMatmulAlgo_t algorithm = algorithm_of(p, problem);
  const float alpha = 1.0f;
  const float beta = p.accumulate ? 1.0f : 0.0f;
  DT_CUBLAS_CHECK(cublas_lt().matmul(cublas(), problem.descriptor.get(), &alpha, p.right.data, problem.first.get(),
                                     p.left.data, problem.second.get(), &beta, p.output, problem.output.get(), p.output,
                                     problem.output.get(), &algorithm, workspace, kDenseWorkspaceBytes, stream));
}

}  // namespace deeptitan::cuda

#include "kernels/cuda/grouped_gemm/grouped_gemm.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/loop.h"
#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/tensor_map.h"

namespace deeptitan::cuda {

namespace {

int current_device() {
  int device;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

int device_attribute(cudaDeviceAttr attribute) {
  int value;
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, current_device()));
  return value;
}

void check_available(GroupedGemmStrategy strategy) {
  const std::vector<GroupedGemmStrategy> available = available_grouped_gemm_strategies();
  if (std::find(available.begin(), available.end(), strategy) != available.end()) return;
  cudaDeviceProp properties;
  DT_CUDA_CHECK(cudaGetDeviceProperties(&properties, current_device()));
  fail("grouped GEMM strategy {} needs compute capability 9.0, and {} has {}.{}; it can run: {}",
       grouped_gemm_strategy_name(strategy), properties.name, properties.major, properties.minor,
       grouped_gemm_strategy_names(available));
}

/// `width` is one whose rows the TMA or the library reads: whole 16 bytes.
void check_width(const char* name, int width, GroupedGemmStrategy strategy) {
  const int elements = is_fp8(strategy) ? 16 : 8;
  DT_CHECK(width > 0 && width % elements == 0,
           "grouped GEMM: {} = {} must be a positive multiple of {} (16 bytes of {}); pad the weights", name, width,
           elements, is_fp8(strategy) ? "e4m3" : "bf16");
}

void check_pointer(const char* name, const void* pointer, size_t alignment) {
  DT_CHECK(pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % alignment == 0,
           "grouped GEMM: {} at {} must be a device address that is a multiple of {}", name, pointer, alignment);
}

/// Checks what all products share; false if there is nothing to do.
bool check_product(GroupedGemmStrategy strategy, const GroupedGemmShape& shape, const GroupedGemmOptions& options,
                   const void* workspace) {
  check_available(strategy);
  DT_CHECK(shape.groups >= 0 && shape.rows >= 0 && shape.rows <= std::numeric_limits<int32_t>::max(),
           "grouped GEMM: {} groups over {} rows; neither may be negative, and rows must be below 2^31", shape.groups,
           shape.rows);
  check_width("n", shape.n, strategy);
  check_width("k", shape.k, strategy);
  DT_CHECK(options.max_multiprocessors == 0 || options.max_multiprocessors >= 2,
           "grouped GEMM: max_multiprocessors = {}; use 0 for all, or at least 2", options.max_multiprocessors);
  if (shape.groups == 0 || shape.rows == 0) return false;
  check_pointer("group_offsets", shape.group_offsets, alignof(int32_t));
  check_pointer("group_sizes", shape.group_sizes, alignof(int32_t));
  if (grouped_gemm_workspace_bytes(strategy) > 0) check_pointer("workspace", workspace, 256);
  return true;
}

void check_operand(const char* name, const GroupedGemmOperand& operand, GroupedGemmStrategy strategy) {
  check_pointer(name, operand.data, 16);
  DT_CHECK(!is_fp8(strategy) || operand.scales != nullptr, "grouped GEMM: {} of strategy {} need scales", name,
           grouped_gemm_strategy_name(strategy));
  DT_CHECK(is_fp8(strategy) || operand.scales == nullptr, "grouped GEMM: {} of strategy {} are bf16 and take no scales",
           name, grouped_gemm_strategy_name(strategy));
}

int multiprocessors(const GroupedGemmOptions& options) {
  const int present = device_attribute(cudaDevAttrMultiProcessorCount);
  return options.max_multiprocessors == 0 ? present : std::min(present, options.max_multiprocessors);
}

/// A map whose boxes are `box_rows` rows of `box_blocks` x 128 bytes.
CUtensorMap swizzled_map(const void* data, CUtensorMapDataType type, int element_bytes, int64_t width, int64_t height,
                         int64_t depth, int box_rows, int box_blocks = 1) {
  return make_tensor_map(data, {.type = type,
                                .element_bytes = element_bytes,
                                .width = width,
                                .height = height,
                                .depth = depth,
                                .row_stride = width,
                                .box_width = 128 / element_bytes,
                                .box_height = box_rows,
                                .box_blocks = box_blocks,
                                .swizzled = true});
}

CUtensorMap bf16_map(const void* data, int64_t width, int64_t height, int64_t depth, int box_rows) {
  return swizzled_map(data, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, width, height, depth, box_rows);
}

/// For an operand whose rows run along the contraction: boxes of 64 rows and `box_blocks` x 64 columns.
CUtensorMap transposed_map(const void* data, int64_t width, int64_t height, int64_t depth, int box_blocks) {
  return swizzled_map(data, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, width, height, depth, 64, box_blocks);
}

CUtensorMap e4m3_map(const void* data, int64_t width, int64_t height, int64_t depth, int box_rows) {
  return swizzled_map(data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, width, height, depth, box_rows);
}

sm90::GroupedGemmParameters common_parameters(const GroupedGemmShape& shape, int m, int n, int k) {
  sm90::GroupedGemmParameters parameters{};
  parameters.offsets = shape.group_offsets;
  parameters.sizes = shape.group_sizes;
  parameters.groups = shape.groups;
  parameters.rows = static_cast<int>(shape.rows);
  parameters.m = m;
  parameters.n = n;
  parameters.k = k;
  return parameters;
}

using OperandMap = CUtensorMap (*)(const void* data, int64_t width, int64_t height, int64_t depth, int box_rows);

/// The output [rows, width], bf16, and the operand A [rows, depth] that it is computed from.
void set_rows(sm90::GroupedGemmParameters* parameters, bfloat16* output, int width, const void* a, int depth,
              OperandMap a_map) {
  parameters->a = a_map(a, depth, parameters->rows, 1, 128);
  parameters->a_half = a_map(a, depth, parameters->rows, 1, 64);
  parameters->output = bf16_map(output, width, parameters->rows, 1, 64);
  parameters->output_rows = output;
}

/// output [T, width] = a [T, depth] x b[g]^T, b [E, width, depth], by an fp8 strategy.
void multiply_fp8(GroupedGemmStrategy strategy, bfloat16* output, const GroupedGemmOperand& a,
                  const GroupedGemmOperand& b, const GroupedGemmShape& shape, int width, int depth,
                  const GroupedGemmOptions& options, cudaStream_t stream) {
  sm90::GroupedGemmParameters parameters = common_parameters(shape, 0, width, depth);
  set_rows(&parameters, output, width, a.data, depth, e4m3_map);
  parameters.b = e4m3_map(b.data, depth, width, shape.groups, 128);
  parameters.a_scales = a.scales;
  parameters.b_scales = b.scales;
  if (strategy == GroupedGemmStrategy::kFp8Rowwise) {
    sm90::launch_fp8_rowwise(parameters, multiprocessors(options), stream);
    return;
  }
  check_pointer("activation scales", a.scales, 16);
  parameters.a_scale = make_tensor_map(a.scales, {.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                                                  .element_bytes = 4,
                                                  .width = shape.rows,
                                                  .height = (depth + 127) / 128,
                                                  .depth = 1,
                                                  .row_stride = activation_scale_stride(shape.rows),
                                                  .box_width = 132,
                                                  .box_height = 1,
                                                  .swizzled = false});
  sm90::launch_fp8_blockwise(parameters, multiprocessors(options), stream);
}

const bfloat16* as_bf16(const GroupedGemmOperand& operand) {
  return static_cast<const bfloat16*>(operand.data);
}

sm90::GroupedGemmParameters weight_gradient_parameters(float* weight_gradient, const bfloat16* output_gradient,
                                                       const bfloat16* activations, const GroupedGemmShape& shape,
                                                       const GroupedGemmOptions& options) {
  sm90::GroupedGemmParameters parameters = common_parameters(shape, shape.n, shape.k, 0);
  parameters.whole_blocks = shape.n % 64 == 0 && shape.k % 64 == 0;
  const int box_blocks = parameters.whole_blocks ? 2 : 1;
  parameters.a = transposed_map(output_gradient, shape.n, shape.rows, 1, box_blocks);
  parameters.a_half = transposed_map(output_gradient, shape.n, shape.rows, 1, 1);
  parameters.b = transposed_map(activations, shape.k, shape.rows, 1, box_blocks);
  parameters.output =
      swizzled_map(weight_gradient, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, shape.k, shape.n, shape.groups, 64);
  parameters.output_rows = weight_gradient;
  parameters.accumulate = options.accumulate;
  return parameters;
}

/// Rows of a group, in the mean, up to which reading and writing what is added to takes longer than the products.
constexpr int kFewRowsToAdd = 640;

void launch_weight_gradient(const sm90::GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream) {
  const int rows = parameters.rows + (parameters.second.sizes != nullptr ? parameters.second.rows : 0);
  const bool few = parameters.accumulate && rows / parameters.groups <= kFewRowsToAdd;
  (few ? sm90::launch_bf16_added_weight_gradient : sm90::launch_bf16_weight_gradient)(parameters, multiprocessors,
                                                                                      stream);
}

}  // namespace

std::vector<GroupedGemmStrategy> available_grouped_gemm_strategies() {
  std::vector<GroupedGemmStrategy> available = {GroupedGemmStrategy::kLoop};
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) == 9 &&
      device_attribute(cudaDevAttrComputeCapabilityMinor) == 0) {
    available.insert(available.end(), {GroupedGemmStrategy::kBf16, GroupedGemmStrategy::kFp8Rowwise,
                                       GroupedGemmStrategy::kFp8Blockwise});
  }
  return available;
}

size_t grouped_gemm_workspace_bytes(GroupedGemmStrategy strategy) {
  return strategy == GroupedGemmStrategy::kLoop ? kLoopWorkspaceBytes : 0;
}

void grouped_gemm_forward(GroupedGemmStrategy strategy, bfloat16* output, const GroupedGemmOperand& activations,
                          const GroupedGemmOperand& weights, const GroupedGemmShape& shape,
                          const GroupedGemmOptions& options, void* workspace, cudaStream_t stream) {
  if (!check_product(strategy, shape, options, workspace)) return;
  check_operand("activations", activations, strategy);
  check_operand("weights", weights, strategy);
  check_pointer("output", output, 16);
  if (strategy == GroupedGemmStrategy::kLoop) {
    loop_forward(output, as_bf16(activations), as_bf16(weights), shape, options, workspace, stream);
  } else if (is_fp8(strategy)) {
    multiply_fp8(strategy, output, activations, weights, shape, shape.n, shape.k, options, stream);
  } else {
    sm90::GroupedGemmParameters parameters = common_parameters(shape, 0, shape.n, shape.k);
    set_rows(&parameters, output, shape.n, activations.data, shape.k, bf16_map);
    parameters.b = bf16_map(weights.data, shape.k, shape.n, shape.groups, 128);
    sm90::launch_bf16_forward(parameters, multiprocessors(options), stream);
  }
}

void grouped_gemm_forward_of_both(bfloat16* output, const bfloat16* activations, const bfloat16* first,
                                  const bfloat16* second, const GroupedGemmShape& shape, cudaStream_t stream) {
  DT_CHECK(shape.groups == 2, "grouped GEMM: two weights of the same rows are two groups, not {}", shape.groups);
  if (!check_product(GroupedGemmStrategy::kBf16, shape, {}, nullptr)) return;
  check_pointer("activations", activations, 16);
  check_pointer("first weights", first, 16);
  check_pointer("second weights", second, 16);
  check_pointer("output", output, 16);
  sm90::GroupedGemmParameters parameters = common_parameters(shape, 0, shape.n, shape.k);
  set_rows(&parameters, output, shape.n, activations, shape.k, bf16_map);
  parameters.output = bf16_map(output, shape.n, 2 * shape.rows, 1, 64);
  parameters.b = bf16_map(first, shape.k, shape.n, 1, 128);
  parameters.second.b = bf16_map(second, shape.k, shape.n, 1, 128);
  parameters.group_rows = static_cast<int>(shape.rows);
  sm90::launch_bf16_forward(parameters, multiprocessors({}), stream);
}

void grouped_gemm_gate_up(bfloat16* output, const bfloat16* activations, const bfloat16* weights,
                          const GroupedGemmShape& shape, const GroupedGemmOptions& options, cudaStream_t stream) {
  if (!check_product(GroupedGemmStrategy::kBf16, shape, options, nullptr)) return;
  check_pointer("activations", activations, 16);
  check_pointer("weights", weights, 16);
  check_pointer("output", output, 16);
  sm90::GroupedGemmParameters parameters = common_parameters(shape, 0, shape.n, shape.k);
  set_rows(&parameters, output, shape.n, activations, shape.k, bf16_map);
  parameters.b = bf16_map(weights, shape.k, 2 * static_cast<int64_t>(shape.n), shape.groups, 128);
  sm90::launch_bf16_gate_up(parameters, multiprocessors(options), stream);
}

void grouped_gemm_input_gradient(GroupedGemmStrategy strategy, bfloat16* input_gradient,
                                 const GroupedGemmOperand& output_gradient, const GroupedGemmOperand& weights,
                                 const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                                 cudaStream_t stream) {
  if (!check_product(strategy, shape, options, workspace)) return;
  check_operand("output gradients", output_gradient, strategy);
  check_operand("weights", weights, strategy);
  check_pointer("input_gradient", input_gradient, 16);
  if (strategy == GroupedGemmStrategy::kLoop) {
    loop_input_gradient(input_gradient, as_bf16(output_gradient), as_bf16(weights), shape, options, workspace, stream);
  } else if (is_fp8(strategy)) {
    multiply_fp8(strategy, input_gradient, output_gradient, weights, shape, shape.k, shape.n, options, stream);
  } else {
    sm90::GroupedGemmParameters parameters = common_parameters(shape, 0, shape.k, shape.n);
    parameters.whole_blocks = shape.k % 64 == 0;
    set_rows(&parameters, input_gradient, shape.k, output_gradient.data, shape.n, bf16_map);
    parameters.b = transposed_map(weights.data, shape.k, shape.n, shape.groups, parameters.whole_blocks ? 2 : 1);
    sm90::launch_bf16_input_gradient(parameters, multiprocessors(options), stream);
  }
}

void grouped_gemm_weight_gradient(GroupedGemmStrategy strategy, float* weight_gradient, const bfloat16* output_gradient,
                                  const bfloat16* activations, const GroupedGemmShape& shape,
                                  const GroupedGemmOptions& options, void* workspace, cudaStream_t stream) {
  DT_CHECK(!is_fp8(strategy), "grouped GEMM strategy {} has no weight gradient; use one of: loop, bf16",
           grouped_gemm_strategy_name(strategy));
  if (!check_product(strategy, shape, options, workspace)) {
    const auto elements = static_cast<size_t>(shape.groups) * shape.n * shape.k;
    if (!options.accumulate) DT_CUDA_CHECK(cudaMemsetAsync(weight_gradient, 0, sizeof(float) * elements, stream));
    return;
  }
  check_pointer("output_gradient", output_gradient, 16);
  check_pointer("activations", activations, 16);
  check_pointer("weight_gradient", weight_gradient, 16);
  if (strategy == GroupedGemmStrategy::kLoop) {
    loop_weight_gradient(weight_gradient, output_gradient, activations, shape, options, workspace, stream);
    return;
  }
  const sm90::GroupedGemmParameters parameters =
      weight_gradient_parameters(weight_gradient, output_gradient, activations, shape, options);
  launch_weight_gradient(parameters, multiprocessors(options), stream);
}

void grouped_gemm_weight_gradient_of_both(float* weight_gradient, const GroupedGemmRows& first,
                                          const GroupedGemmRows& second, int groups, int n, int k,
                                          const GroupedGemmOptions& options, cudaStream_t stream) {
  const auto shape_of = [&](const GroupedGemmRows& x) {
    return GroupedGemmShape{x.group_offsets, x.group_sizes, groups, x.rows, n, k};
  };
  if (first.rows == 0 || second.rows == 0) {
    const GroupedGemmRows& one = first.rows == 0 ? second : first;
    return grouped_gemm_weight_gradient(GroupedGemmStrategy::kBf16, weight_gradient, one.output_gradient,
                                        one.activations, shape_of(one), options, nullptr, stream);
  }
  for (const GroupedGemmRows* x : {&first, &second}) {
    if (!check_product(GroupedGemmStrategy::kBf16, shape_of(*x), options, nullptr)) return;
    check_pointer("output_gradient", x->output_gradient, 16);
    check_pointer("activations", x->activations, 16);
  }
  check_pointer("weight_gradient", weight_gradient, 16);
  sm90::GroupedGemmParameters parameters =
      weight_gradient_parameters(weight_gradient, first.output_gradient, first.activations, shape_of(first), options);
  const sm90::GroupedGemmParameters behind = weight_gradient_parameters(weight_gradient, second.output_gradient,
                                                                        second.activations, shape_of(second), options);
  parameters.second = {behind.a, behind.a_half, behind.b, behind.offsets, behind.sizes, behind.rows};
  launch_weight_gradient(parameters, multiprocessors(options), stream);
}

}  // namespace deeptitan::cuda

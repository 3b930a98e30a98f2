#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

#include "core/dtype.h"

namespace deeptitan {

struct ConvertOptions {
  /// kBF16, kF32 or kF8E4M3.
  DType dtype = DType::kBF16;
  uint64_t max_shard_bytes = 5'000'000'000;
  /// Elements of a tensor that are in memory at a time (rounded up to whole rows of blocks).
  int64_t piece_elements = int64_t{1} << 24;
  /// Called after each piece with the bytes written so far and in all.
  std::function<void(uint64_t, uint64_t)> progress;
};

struct ConvertSummary {
  int64_t tensors = 0;  // written, scales included
  uint64_t bytes = 0;   // of their elements
};

/// Rewrites the Hugging Face model directory `input` as `output` with weights of options.dtype.
///
/// To bf16 or fp32 every floating-point tensor is converted, fp8 blocks are dequantised. To fp8 the matrices that
/// DeepSeek-V3's own files hold in fp8 (is_float8_weight) become e4m3 with 128x128 blocks and `<name>_scale_inv`, the
/// rest bf16; what is in fp8 already is copied bit for bit. `e_score_correction_bias` is fp32 in every case and integer
/// tensors stay as they are. config.json follows (torch_dtype, quantization_config); tokenizer, generation and other
/// small files are copied. The output appears whole or not at all, and a piece of a tensor is in memory at a time.
///
/// Throws Error (kUsage) if the output is the input, lies in it or is not empty, and Error if the input is damaged,
/// quantised in a way other than DeepSeek's fp8, or the disk lacks room.
ConvertSummary convert_directory(const std::filesystem::path& input, const std::filesystem::path& output,
                                 const ConvertOptions& options);

/// Whether DeepSeek-V3's fp8 files hold this tensor in fp8: a matrix `*.weight` that is not the embedding, the output
/// head, the router (`mlp.gate.weight`) or the projection of the next-token-prediction layer (`eh_proj`).
bool is_float8_weight(std::string_view name, size_t dimensions);

}  // namespace deeptitan

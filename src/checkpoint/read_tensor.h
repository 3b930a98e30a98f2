#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "checkpoint/model_directory.h"

namespace deeptitan {

/// Reads tensor `name` as `to` (f32 or bf16) into `destination`, which has room for `shape`: f16, bf16, f32, f64 and
/// e4m3 are converted, and an e4m3 matrix that has a tensor `<name>_scale_inv` beside it is dequantised by its 128x128
/// blocks. The file's pages are released after use, so a whole checkpoint can be read this way with little more memory
/// than what it is read into. Throws Error that names the tensor if it is missing or has another shape or a dtype
/// without numbers, or if the scales' shape does not fit.
void read_tensor(const ModelDirectory& model, std::string_view name, const std::vector<int64_t>& shape, DType to,
                 void* destination);

/// The same for rows [first, first + rows) of it (of a vector: elements), on the calling thread and beside others that
/// read other rows; the bytes come from the file and not through its mapping. Of an e4m3 matrix with block scales
/// `first` is a multiple of 128.
void read_tensor_rows(const ModelDirectory& model, std::string_view name, const std::vector<int64_t>& shape,
                      int64_t first, int64_t rows, DType to, void* destination);

/// Whether `name` is the scales of another tensor of the directory ("<weight>_scale_inv" beside "<weight>").
bool is_float8_scale(const ModelDirectory& model, std::string_view name);

/// Whether some tensor is e4m3: whoever computes with the directory widens it.
bool holds_float8(const ModelDirectory& model);

/// The block scales of an e4m3 matrix, `<name>_scale_inv`, nullptr if it has none; throws Error if they are not
/// f32 [ceil(rows / 128), ceil(columns / 128)].
const TensorEntry* float8_scale(const ModelDirectory& model, const TensorEntry& tensor);

}  // namespace deeptitan

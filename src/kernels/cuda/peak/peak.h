#pragma once

// What a GPU can do, measured now: the yardsticks that figures are reported against.

namespace deeptitan::cuda {

/// Floating-point operations a second of a bf16 product (f32 without TF32 where not `bf16`) of 8192 x 8192 x 8192
/// through cuBLASLt over normal random operands, the best of a few; of the current device. Takes 0.5 GB of its memory.
double measure_matrix_peak(bool bf16);

/// Bytes a second that a copy within its memory reads and writes together, the best of a few of 512 MB.
double measure_copy_bandwidth();

}  // namespace deeptitan::cuda

#pragma once

#include "kernels/cpu/matmul/panel_kernel.h"

namespace deeptitan::cpu {

/// Floating-point operations a second of the widest multiply-adds on registers, on all threads, the best of a few runs:
/// what no product can exceed, and the yardstick that training and generation are reported against, taken on this
/// machine, now. Takes about `seconds`.
double measure_matrix_peak(OperandType type, double seconds);

/// Bytes a second that all threads read from memory, the best of a few passes over a buffer larger than the caches.
double measure_read_bandwidth(double seconds);

}  // namespace deeptitan::cpu

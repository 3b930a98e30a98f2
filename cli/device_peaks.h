#pragma once

#include "bench_report.h"
#include "core/device.h"
#include "core/dtype.h"

namespace deeptitan {

/// What the device does at most, measured now: of matrix products on this type of operands, and from its memory (read
/// on the CPU; read and written by a copy on a GPU). Takes about `seconds` each on the CPU.
double measure_matrix_peak(Device device, DType operand, double seconds);
double measure_memory_peak(Device device, double seconds);

}  // namespace deeptitan

#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/execution_context.h"

namespace deeptitan {

using Json = nlohmann::ordered_json;

double median(std::vector<double> values);

/// The floating-point operations of all ops.
double flops_of(const OpProfile& profile);

/// What a device can do at most.
struct DevicePeaks {
  double flops = 0;  // a second, of matrix products
  double bytes = 0;  // a second, to and from its memory
};

/// Time by op as a JSON array, the largest first: op, share, calls, gflops, gigabytes; and with peaks of_peak, the part
/// of its time in which the device could have done it: of the longer of its operations and its bytes.
Json ops_of(const OpProfile& profile, const DevicePeaks& peaks = {});

/// A bench's results on stdout: one JSON object, or a table with "ops" at the end.
void print_report(const Json& report, bool as_json);

}  // namespace deeptitan

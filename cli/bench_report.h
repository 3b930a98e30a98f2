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

/// Time by op as a JSON array, the largest first: op, share, calls, gflops.
Json ops_of(const OpProfile& profile);

/// A bench's results on stdout: one JSON object, or a table with "ops" at the end.
void print_report(const Json& report, bool as_json);

}  // namespace deeptitan

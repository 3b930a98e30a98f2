#include "bench_report.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace deeptitan {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double flops_of(const OpProfile& profile) {
  double sum = 0;
  for (const auto& [name, entry] : profile.entries) sum += entry.flops;
  return sum;
}

Json ops_of(const OpProfile& profile, const DevicePeaks& peaks) {
  double total = 0;
  std::vector<std::pair<std::string, OpProfile::Entry>> entries(profile.entries.begin(), profile.entries.end());
  for (const auto& [name, entry] : entries) total += entry.seconds;
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  Json ops = Json::array();
  for (const auto& [name, entry] : entries) {
    ops.push_back({{"op", name},
                   {"share", entry.seconds / total},
                   {"calls", entry.calls},
                   {"gflops", entry.flops / std::max(1e-12, entry.seconds) / 1e9},
                   {"gigabytes", entry.bytes / std::max(1e-12, entry.seconds) / 1e9}});
    if (peaks.flops <= 0 || peaks.bytes <= 0) continue;
    ops.back()["of_peak"] =
        std::max(entry.flops / peaks.flops, entry.bytes / peaks.bytes) / std::max(1e-12, entry.seconds);
  }
  return ops;
}

void print_report(const Json& report, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", report.dump());
    return;
  }
  for (const auto& [key, value] : report.items()) {
    if (key != "ops")
      fmt::print("{:<24} {}\n", key,
                 value.is_number_float() ? fmt::format("{:.4g}", value.get<double>())
                 : value.is_string()     ? value.get<std::string>()
                                         : value.dump());
  }
  const bool of_peak = !report["ops"].empty() && report["ops"][0].contains("of_peak");
  fmt::print("\n{:<32} {:>7} {:>8} {:>9} {:>7}{}\n", "op", "share", "calls", "GFLOP/s", "GB/s",
             of_peak ? "  of peak" : "");
  for (const Json& op : report["ops"]) {
    fmt::print("{:<32} {:>6.1f}% {:>8} {:>9.0f} {:>7.1f}{}\n", op["op"].get<std::string>(),
               100 * op["share"].get<double>(), op["calls"].get<int64_t>(), op["gflops"].get<double>(),
               op["gigabytes"].get<double>(),
               of_peak ? fmt::format(" {:>7.1f}%", 100 * op["of_peak"].get<double>()) : "");
  }
}

}  // namespace deeptitan

#include "core/op_profile.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace deeptitan {

void OpProfile::add(const char* name, double flops, double bytes, const Event& begin, const Event& end) {
  Entry& entry = entries[name];
  entry.flops += flops;
  entry.bytes += bytes;
  ++entry.calls;
  if (begin.device().kind == DeviceKind::kCpu && !keep_spans) {
    entry.seconds += end.seconds_since(begin);
    return;
  }
  if (spans.empty() && timed_.empty()) first_ = begin;
  Timed timed{name, flops, bytes, begin, end};
  if (begin.device().kind == DeviceKind::kCpu) return add_times(timed);
  timed_.push_back(std::move(timed));
}

void OpProfile::add_times(const Timed& op) {
  const double seconds = op.end.seconds_since(op.begin);
  entries[op.name].seconds += seconds;
  if (keep_spans) spans.push_back({op.name, op.begin.seconds_since(first_), seconds, op.flops, op.bytes});
}

void OpProfile::finish() {
  for (const Timed& op : timed_) {
    op.end.synchronize();
    add_times(op);
  }
  timed_.clear();
}

std::string chrome_trace(const OpProfile& profile) {
  std::string text = "{\"traceEvents\": [";
  for (size_t i = 0; i < profile.spans.size(); ++i) {
    const OpProfile::Span& span = profile.spans[i];
    const double seconds = std::max(span.seconds, 1e-12);
    // Times in microseconds.
    text += fmt::format(
        "{}\n{{\"name\": \"{}\", \"ph\": \"X\", \"pid\": 0, \"tid\": 0, \"ts\": {:.3f}, \"dur\": {:.3f}, \"args\": "
        "{{\"gflops\": {:.1f}, \"gigabytes_per_second\": {:.1f}}}}}",
        i == 0 ? "" : ",", span.name, 1e6 * span.begin, 1e6 * span.seconds, 1e-9 * span.flops / seconds,
        1e-9 * span.bytes / seconds);
  }
  return text + "\n]}\n";
}

}  // namespace deeptitan

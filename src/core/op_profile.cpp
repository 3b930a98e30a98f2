#include "core/op_profile.h"

namespace deeptitan {

void OpProfile::add(const char* name, double flops, double bytes, const Event& begin, const Event& end) {
  Entry& entry = entries[name];
  entry.flops += flops;
  entry.bytes += bytes;
  ++entry.calls;
  if (begin.device().kind == DeviceKind::kCpu) {
    entry.seconds += end.seconds_since(begin);
  } else {
    timed_.push_back({name, begin, end});
  }
}

void OpProfile::finish() {
  for (const Timed& op : timed_) {
    op.end.synchronize();
    entries[op.name].seconds += op.end.seconds_since(op.begin);
  }
  timed_.clear();
}

}  // namespace deeptitan

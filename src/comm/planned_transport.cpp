#include "comm/planned_transport.h"

#include "core/error.h"

namespace deeptitan {
namespace {

[[noreturn]] void fail_planned() {
  fail("these ranks are only planned; nothing can be exchanged with them");
}

}  // namespace

Transport::Message PlannedTransport::begin_send(const void* /*data*/, size_t /*bytes*/, int /*to*/, int /*channel*/) {
  fail_planned();
}
Transport::Message PlannedTransport::begin_receive(void* /*data*/, size_t /*bytes*/, int /*from*/, int /*channel*/) {
  fail_planned();
}
bool PlannedTransport::done(Message /*message*/) {
  fail_planned();
}
void PlannedTransport::give_up(Message /*message*/) noexcept {}

}  // namespace deeptitan

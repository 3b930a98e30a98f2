#pragma once

#include <cstddef>
#include <functional>

#include "comm/transport.h"

namespace deeptitan {

/// Runs body(transport) in `ranks` threads of this process, each of which is a rank of a world of its own: what many
/// processes do, where a test can see it. Returns when all have ended. Throws what the first rank threw; the others are
/// then released from what they wait for. `max_message`: see Transport.
void run_thread_ranks(int ranks, const std::function<void(Transport&)>& body, size_t max_message = size_t{1} << 30);

}  // namespace deeptitan

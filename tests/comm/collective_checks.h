#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "comm/transport.h"
#include "core/device.h"

namespace deeptitan {

// What every transport must do, as one of its ranks sees it: each check is called by all ranks with the same seed,
// forms a group of them in a random order, and compares what comes with a plain loop. Expectations are gtest's.

void check_all_reduce(Transport& transport, uint64_t seed);
void check_reduce_scatter_and_all_gather(Transport& transport, uint64_t seed);
void check_all_to_all(Transport& transport, uint64_t seed);
void check_send_and_receive(Transport& transport, uint64_t seed);
void check_broadcast_and_barrier(Transport& transport, uint64_t seed);

/// All of these in groups that are there, on the device for which they are: `group`, and two whose ranks send and
/// receive one by one.
void check_every_operation(Communicator& group, Communicator& one_by_one, Communicator& beside, Device device,
                           uint64_t seed);
/// Sums that a GPU's group makes in parts.
void check_large_sums(Communicator& group, Device device);

}  // namespace deeptitan

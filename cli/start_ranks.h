#pragma once

#include <cstdint>

namespace deeptitan {

/// Starts this command again as `ranks` processes of this host, by mpirun, and waits for them. What ends this process
/// gently (SIGINT, SIGTERM, SIGHUP) makes them save and end; a second SIGINT ends them at once. Returns their exit
/// code. Throws a usage error that says what is missing: MPI's plug-in or mpirun.
int start_ranks(int64_t ranks);

}  // namespace deeptitan

#pragma once

#include <nccl.h>

namespace deeptitan {

/// bases[p]: the first byte of rank p's part of `window`, for p in [0, n_ranks). Waits for the device. Throws Error.
void read_window_pointers(ncclWindow_t window, int n_ranks, char** bases);

}  // namespace deeptitan

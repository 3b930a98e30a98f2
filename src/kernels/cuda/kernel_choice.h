#pragma once

namespace deeptitan::cuda {

/// Whether the environment variable DEEPTITAN_CUDA_KERNELS asks for the plain kernels ("plain") where the chip has
/// faster ones ("fast", or unset: they are taken where the sizes allow). Throws a usage error for any other value.
bool plain_kernels_wanted();

}  // namespace deeptitan::cuda

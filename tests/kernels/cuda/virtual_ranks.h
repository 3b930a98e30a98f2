#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/all_to_all/all_to_all.h"
#include "kernels/cuda/barrier/barrier.h"

namespace deeptitan::cuda {

/// One launch in which blockIdx.y is the rank: all ranks of an exchange on one device, all blocks resident together.
/// `arguments` is [n_ranks] in device memory. bulk: with a small ring, so that chunks and stages wrap on small data.
void launch_virtual_all_to_all(const AllToAllArguments* arguments, int n_ranks, int blocks, bool bulk,
                               cudaStream_t stream);

/// One barrier per rank in one launch; `arguments` is [n_ranks] in device memory.
void launch_virtual_barrier(const BarrierArguments* arguments, int n_ranks, BarrierOrder order, cudaStream_t stream);

/// `rounds` times, on every rank: write the round's number into values[rank], pass a barrier, count in *mismatches
/// every rank whose value is not the round's, pass another barrier.
void launch_barrier_rounds(const BarrierArguments* arguments, int n_ranks, int rounds, uint32_t* values,
                           uint32_t* mismatches, cudaStream_t stream);

/// data[i] = a hash of (seed, i).
void fill_words(uint32_t* data, int64_t count, uint32_t seed, cudaStream_t stream);
/// Adds the number of i with data[i] != the hash of (seed, i) to *mismatches.
void count_mismatches(const uint32_t* data, int64_t count, uint32_t seed, unsigned long long* mismatches,
                      cudaStream_t stream);

}  // namespace deeptitan::cuda

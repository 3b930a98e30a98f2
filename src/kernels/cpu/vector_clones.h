#pragma once

// DT_VECTOR_CLONES before a function compiles it for AVX-512 beside the build's baseline (AVX2 with fused
// multiply-add); the loader picks one when the program starts. Both give the same bits: contraction is off, and
// reductions are written in the order they run. Do not put it on a function with an OpenMP parallel region: put it on
// what the region calls.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define DT_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "default")))
#else
#define DT_VECTOR_CLONES
#endif

#pragma once

#include <stdint.h>

// What libdeeptitan_mpi.so offers: the only thing that the program and the plug-in share. Plain C, so that neither has
// to be compiled like the other. A function that returns int returns 0, or a code that error_text turns into words.

#ifdef __cplusplus
extern "C" {
#endif

/// Grows with every change of what follows; a plug-in of another number is not used.
#define DT_MPI_INTERFACE 1
#define DT_MPI_ENTRY "deeptitan_mpi"

struct DtMpiFunctions {
  int32_t interface_number;
  int32_t padding;
  /// "Open MPI v4.1.4"; may be asked before start.
  const char* (*library)(void);
  /// MPI_Init_thread: all calls come from the thread that makes this one, in a process that has others, which MPI has
  /// to allow. This process's place in the world, and in
  /// the ranks of its host.
  int (*start)(int* rank, int* size, int* local_rank, int* local_size);
  /// Of at most 2^30 bytes. `message` names it until it is done or given up.
  int (*begin_send)(const void* data, int64_t bytes, int to, int channel, int64_t* message);
  int (*begin_receive)(void* data, int64_t bytes, int from, int channel, int64_t* message);
  /// done: 1 where it has gone or come, with how many bytes came (of what was sent: -1).
  int (*test)(int64_t message, int* done, int64_t* bytes);
  void (*give_up)(int64_t message);
  /// MPI_Finalize: waits until all ranks call it.
  int (*finish)(void);
  /// MPI_Abort: ends all ranks. Does not return.
  void (*abort)(int exit_code);
  void (*error_text)(int code, char* text, int capacity);
};

/// The plug-in's one symbol, DT_MPI_ENTRY.
typedef const struct DtMpiFunctions* (*DtMpiEntry)(void);

#ifdef __cplusplus
}
#endif

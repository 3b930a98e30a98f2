// libdeeptitan_mpi.so: MPI behind comm/mpi/mpi_interface.h. Holds nothing but calls of MPI and the list of messages
// that are on their way; deadlines, sums and groups are the program's.

#include <mpi.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "comm/mpi/mpi_interface.h"

namespace {

constexpr int64_t kMaxMessage = int64_t{1} << 30;
constexpr int kTooLong = -1;
constexpr int kNoThreads = -2;

struct Message {
  MPI_Request request = MPI_REQUEST_NULL;
  bool received = false;
};

std::vector<Message> messages;
std::vector<int64_t> free_places;

int64_t keep(MPI_Request request, bool received) {
  if (free_places.empty()) {
    messages.push_back({});
    free_places.push_back(static_cast<int64_t>(messages.size()) - 1);
  }
  const int64_t place = free_places.back();
  free_places.pop_back();
  messages[place] = {request, received};
  return place;
}

const char* library() {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  if (char* end = std::strpbrk(text, ",\n")) *end = '\0';  // what follows is who built it
  return text;
}

int start(int* rank, int* size, int* local_rank, int* local_size) {
  int granted = 0;
  int status = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &granted);
  if (status != MPI_SUCCESS) return status;
  if (granted < MPI_THREAD_FUNNELED) return kNoThreads;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, size);
  MPI_Comm host = MPI_COMM_NULL;
  status = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  if (status != MPI_SUCCESS) return status;
  MPI_Comm_rank(host, local_rank);
  MPI_Comm_size(host, local_size);
  return MPI_Comm_free(&host);
}

int begin_send(const void* data, int64_t bytes, int to, int channel, int64_t* message) {
  if (bytes > kMaxMessage) return kTooLong;
  MPI_Request request = MPI_REQUEST_NULL;
  const int status = MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, channel, MPI_COMM_WORLD, &request);
  if (status == MPI_SUCCESS) *message = keep(request, false);
  return status;
}

int begin_receive(void* data, int64_t bytes, int from, int channel, int64_t* message) {
  if (bytes > kMaxMessage) return kTooLong;
  MPI_Request request = MPI_REQUEST_NULL;
  const int status = MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, channel, MPI_COMM_WORLD, &request);
  if (status == MPI_SUCCESS) *message = keep(request, true);
  return status;
}

int test(int64_t message, int* done, int64_t* bytes) {
  MPI_Status found;
  const int status = MPI_Test(&messages[message].request, done, &found);
  if (status != MPI_SUCCESS || *done == 0) return status;
  *bytes = -1;
  if (messages[message].received) {
    int count = 0;
    MPI_Get_count(&found, MPI_BYTE, &count);
    *bytes = count;
  }
  free_places.push_back(message);
  return MPI_SUCCESS;
}

// What has failed ends in an abort: the message is left to MPI, but for one that would write into memory that goes.
void give_up(int64_t message) {
  Message& given_up = messages[message];
  if (given_up.request != MPI_REQUEST_NULL && given_up.received) {
    MPI_Cancel(&given_up.request);
    MPI_Request_free(&given_up.request);
  }
  free_places.push_back(message);
}

int finish() {
  return MPI_Finalize();
}

void abort_all(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

void error_text(int code, char* text, int capacity) {
  if (code == kTooLong) {
    std::snprintf(text, capacity, "a message of more than 2^30 bytes");
    return;
  }
  if (code == kNoThreads) {
    std::snprintf(text, capacity,
                  "it grants no calls to a process that has threads (MPI_THREAD_FUNNELED was asked for, "
                  "MPI_THREAD_SINGLE granted); use one that was built with threads");
    return;
  }
  char words[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, words, &length);
  std::snprintf(text, capacity, "%s", words);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const DtMpiFunctions* deeptitan_mpi() {
  static const DtMpiFunctions functions = {
      DT_MPI_INTERFACE, 0, library, start, begin_send, begin_receive, test, give_up, finish, abort_all, error_text};
  return &functions;
}

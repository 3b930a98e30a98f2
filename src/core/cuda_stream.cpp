#include "core/cuda_stream.h"

#include "core/cuda_check.h"

namespace deeptitan::cuda {
namespace {

// What failed is found by whoever waits for it. What is said here is not to be found again by the next launch.
bool is_over(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  return status != cudaErrorNotReady;
}

}  // namespace

std::shared_ptr<void> make_stream(int device, bool urgent) {
  const CurrentDevice current(device);
  cudaStream_t stream = nullptr;
  int least = 0, greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities of streams");
  check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, urgent ? greatest : least),
             "making a stream");
  return {stream, [](void* s) { cudaStreamDestroy(static_cast<cudaStream_t>(s)); }};
}

void synchronize_stream(void* stream) {
  check_cuda(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "waiting for a stream");
}

bool stream_done(void* stream) {
  return is_over(cudaStreamQuery(static_cast<cudaStream_t>(stream)));
}

bool stream_captures(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "looking at a stream");
  return status != cudaStreamCaptureStatusNone;
}

bool stream_failed(void* stream) {
  const cudaError_t status = cudaStreamQuery(static_cast<cudaStream_t>(stream));
  if (status == cudaSuccess || status == cudaErrorNotReady) return false;
  cudaGetLastError();  // what is reported here is not to be found again by the next launch
  return true;
}

void copy(void* to, const void* from, int64_t bytes, void* stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)), "copying");
}

std::shared_ptr<void> make_event(int device) {
  const CurrentDevice current(device);
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "making an event");
  return {event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); }};
}

void record_event(void* event, void* stream) {
  check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)), "recording an event");
}

void make_wait(void* event, void* stream) {
  check_cuda(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0),
             "waiting for an event in a stream");
}

bool event_done(void* event) {
  return is_over(cudaEventQuery(static_cast<cudaEvent_t>(event)));
}

void synchronize_event(void* event) {
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "waiting for an event");
}

double seconds_between(void* earlier, void* later) {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(earlier), static_cast<cudaEvent_t>(later)),
             "reading the time between events");
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace deeptitan::cuda

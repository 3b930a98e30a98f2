#pragma once

#include <cstdint>
#include <memory>

// The CUDA side of core/stream, compiled only with DT_CUDA. Streams and events are cudaStream_t and cudaEvent_t.

namespace deeptitan::cuda {

std::shared_ptr<void> make_stream(int device, bool urgent);
void synchronize_stream(void* stream);
bool stream_done(void* stream);
bool stream_failed(void* stream);
bool stream_captures(void* stream);
void copy(void* to, const void* from, int64_t bytes, void* stream);

std::shared_ptr<void> make_event(int device);
void record_event(void* event, void* stream);
void make_wait(void* event, void* stream);
bool event_done(void* event);
void synchronize_event(void* event);
double seconds_between(void* earlier, void* later);

}  // namespace deeptitan::cuda

#include "core/upload_in_pieces.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include <omp.h>

#include "core/device_choice.h"
#include "core/device_memory.h"

namespace deeptitan {
namespace {

// More than fill any bus: a thread reads a file from memory at several GB/s.
constexpr int64_t kMostThreads = 16;
constexpr int kRooms = 2;

// What the threads share: the next piece, and the first that has failed.
class Pieces {
 public:
  explicit Pieces(int64_t count) : count_(count), failed_(count) {}

  // Pieces are taken in order: all before one that fails have been taken, and are looked at to the end.
  int64_t take() { return next_.fetch_add(1); }
  bool wanted(int64_t piece) const { return piece < failed_.load(); }
  void fail(int64_t piece, std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (piece >= failed_.load() && error_ != nullptr) return;
    failed_.store(std::min(piece, count_));
    error_ = std::move(error);
  }
  void rethrow() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> failed_;
  std::mutex mutex_;
  std::exception_ptr error_;
};

void upload_on_one_thread(Device device, int64_t bytes, Pieces& pieces,
                          const std::function<void(int64_t, const UploadRoom&)>& fill) {
  omp_set_num_threads(1);  // of this thread alone: the others read beside it
  int64_t piece = pieces.take();
  if (!pieces.wanted(piece)) return;
  try {
    use_device(device);
    const Stream stream(device);
    const MemoryBlock memory("uploads", device, MemoryKind::kPinned, kRooms * bytes);
    std::vector<Event> arrived;
    arrived.reserve(kRooms);
    for (int room = 0; room < kRooms; ++room) arrived.emplace_back(device);
    for (int64_t turn = 0; pieces.wanted(piece); ++turn, piece = pieces.take()) {
      const int64_t room = turn % kRooms;
      if (turn >= kRooms) arrived[room].synchronize();
      fill(piece, UploadRoom(memory.data() + room * bytes, stream));
      arrived[room].record(stream);
    }
    stream.synchronize();
  } catch (...) {
    pieces.fail(piece, std::current_exception());
  }
}

}  // namespace

void upload_in_pieces(Device device, int64_t count, int64_t bytes,
                      const std::function<void(int64_t piece, const UploadRoom& room)>& fill) {
  Pieces pieces(count);
  {
    std::vector<std::jthread> threads;
    const int64_t wanted = std::min({count, kMostThreads, static_cast<int64_t>(omp_get_max_threads())});
    for (int64_t t = 0; t < wanted; ++t) {
      threads.emplace_back([&] { upload_on_one_thread(device, bytes, pieces, fill); });
    }
  }
  pieces.rethrow();
}

}  // namespace deeptitan

#include "comm/thread_ranks.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"

namespace deeptitan {
namespace {

/// From, to, channel, and the how many-th message on that way it is.
using MessageKey = std::tuple<int, int, int, int64_t>;

struct Posted {
  const void* data;
  size_t bytes;
};

/// What the threads share: the messages that were sent and not yet received. The receiver copies from the sender's
/// memory, under the lock, so that a message is gone when the lock is.
struct SharedMessages {
  std::mutex mutex;
  std::map<MessageKey, Posted> posted;
  bool failed = false;  // a rank has thrown: nobody waits any more
  std::exception_ptr first_failure;
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(SharedMessages& shared, int rank, int size, size_t max_message)
      : shared_(shared), rank_(rank), size_(size), max_message_(max_message) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  size_t max_message() const override { return max_message_; }

  Message begin_send(const void* data, size_t bytes, int to, int channel) override {
    const MessageKey key{rank_, to, channel, begun_[{rank_, to, channel}]++};
    const std::lock_guard lock(shared_.mutex);
    shared_.posted[key] = {data, bytes};
    return keep({.key = key, .data = nullptr, .bytes = bytes, .sent = true});
  }

  Message begin_receive(void* data, size_t bytes, int from, int channel) override {
    const MessageKey key{from, rank_, channel, begun_[{from, rank_, channel}]++};
    return keep({.key = key, .data = data, .bytes = bytes, .sent = false});
  }

  bool done(Message message) override {
    const Begun& begun = messages_.at(message);
    const std::lock_guard lock(shared_.mutex);
    const auto posted = shared_.posted.find(begun.key);
    if (begun.sent ? posted == shared_.posted.end() : take(begun, posted)) {
      messages_.erase(message);
      return true;
    }
    DT_CHECK(!shared_.failed, "another rank has failed");
    return false;
  }

  void give_up(Message message) noexcept override {
    const auto begun = messages_.find(message);
    const std::lock_guard lock(shared_.mutex);
    if (begun->second.sent) shared_.posted.erase(begun->second.key);
    messages_.erase(begun);
  }

 private:
  struct Begun {
    MessageKey key;
    void* data;
    size_t bytes;
    bool sent;
  };

  Message keep(const Begun& begun) {
    messages_[next_] = begun;
    return next_++;
  }

  bool take(const Begun& begun, std::map<MessageKey, Posted>::iterator posted) {
    if (posted == shared_.posted.end()) return false;
    const Posted found = posted->second;
    shared_.posted.erase(posted);
    DT_CHECK(found.bytes == begun.bytes, "rank {} expected {} bytes of rank {}, which sent {}", rank_, begun.bytes,
             std::get<0>(begun.key), found.bytes);
    if (found.bytes > 0) std::memcpy(begun.data, found.data, found.bytes);
    return true;
  }

  SharedMessages& shared_;
  int rank_;
  int size_;
  size_t max_message_;
  std::map<std::tuple<int, int, int>, int64_t> begun_;
  std::map<Message, Begun> messages_;
  Message next_ = 0;
};

}  // namespace

void run_thread_ranks(int ranks, const std::function<void(Transport&)>& body, size_t max_message) {
  SharedMessages shared;
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadTransport transport(shared, rank, ranks, max_message);
      try {
        body(transport);
      } catch (...) {
        const std::lock_guard lock(shared.mutex);
        if (!std::exchange(shared.failed, true)) shared.first_failure = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (shared.first_failure) std::rethrow_exception(shared.first_failure);
}

}  // namespace deeptitan

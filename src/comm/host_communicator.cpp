#include "comm/host_communicator.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>
#include <thread>
#include <utility>

#include <fmt/ranges.h>

#include "comm/late_rank.h"
#include "comm/parts.h"
#include "core/clock.h"
#include "core/error.h"

namespace deeptitan {
namespace {

constexpr int64_t kStagingBytes = int64_t{8} << 20;
// Of a sum that every rank makes for itself, because a second exchange would take longer.
constexpr int64_t kSmallBytes = 4096;
// A rank to which nothing has come for longer sleeps between two looks.
constexpr double kBusySeconds = 0.002;
constexpr auto kPause = std::chrono::microseconds(50);
// Time between two looks that counts as waiting.
constexpr double kLongestLook = 1;
// One without a deadline to which nothing has come for longer sleeps more.
constexpr double kIdleSeconds = 0.2;
constexpr auto kIdlePause = std::chrono::milliseconds(2);
// One that another has given up waiting for is itself held up by whom it has waited for as long.
constexpr double kHeldUpSeconds = 0.25;

template <typename T>
void add(T* sum, const T* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sum[i] += x[i];
}

// sum += x
void add(DType type, char* sum, const char* x, int64_t count) {
  switch (type) {
    case DType::kF32:
      return add(reinterpret_cast<float*>(sum), reinterpret_cast<const float*>(x), count);
    case DType::kF64:
      return add(reinterpret_cast<double*>(sum), reinterpret_cast<const double*>(x), count);
    case DType::kI32:
      return add(reinterpret_cast<int32_t*>(sum), reinterpret_cast<const int32_t*>(x), count);
    default:
      fail("ranks add f32, f64 and i32; found {}", dtype_name(type));
  }
}

// 0: none, as where a checkpoint is written.
int64_t step_of(const ExecutionContext& ctx) {
  return ctx.state == nullptr ? 0 : ctx.state->in.step;
}

}  // namespace

/// The messages of one operation. They are given up where it fails, so that none is written into memory that is gone.
class HostCommunicator::Exchange {
 public:
  Exchange(HostCommunicator& group, const ExecutionContext& ctx, const char* operation)
      : group_(group), ctx_(ctx), operation_(operation) {
    if (const int64_t step = step_of(ctx); step > 0) group.last_step_ = step;
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() {
    for (const Pending& p : pending_) group_.transport_.give_up(p.message);
  }

  // In pieces that the transport takes.
  void send(const char* data, int64_t bytes, int to) {
    cut(bytes, [&](int64_t at, size_t piece) {
      pending_.push_back({group_.transport_.begin_send(data + at, piece, group_.ranks_[to], group_.channel_), to});
    });
  }
  void receive(char* data, int64_t bytes, int from) {
    cut(bytes, [&](int64_t at, size_t piece) {
      pending_.push_back(
          {group_.transport_.begin_receive(data + at, piece, group_.ranks_[from], group_.channel_), from});
    });
  }
  void send_nothing(int to) {
    pending_.push_back({group_.transport_.begin_send(nullptr, 0, group_.ranks_[to], group_.channel_), to});
  }
  void receive_nothing(int from) {
    pending_.push_back({group_.transport_.begin_receive(nullptr, 0, group_.ranks_[from], group_.channel_), from});
  }

  /// Returns when all messages are done.
  void wait() {
    double waited = 0, last_look = monotonic_seconds();
    for (size_t left = pending_.size(); !poll();) {
      const double now = monotonic_seconds();
      // One that was itself stopped meanwhile (Ctrl-Z) has not waited.
      waited = pending_.size() < left ? 0 : waited + std::min(now - last_look, kLongestLook);
      last_look = now;
      left = pending_.size();
      const bool missed = group_.transport_.missed() && waited > kHeldUpSeconds;
      if (waited > group_.deadline_ || missed) fail_late(std::min(waited, group_.deadline_));
      if (waited < kBusySeconds) {
        std::this_thread::yield();
      } else if (group_.deadline_ == kNoDeadline && waited > kIdleSeconds) {
        std::this_thread::sleep_for(kIdlePause);
      } else {
        std::this_thread::sleep_for(kPause);
      }
    }
  }

  std::vector<Pending> take_pending() { return std::exchange(pending_, {}); }
  void adopt(std::vector<Pending> pending) { pending_.insert(pending_.end(), pending.begin(), pending.end()); }

 private:
  template <typename Begin>
  void cut(int64_t bytes, const Begin& begin) {
    const auto most = static_cast<int64_t>(group_.transport_.max_message());
    for (int64_t at = 0; at < bytes; at += most) begin(at, static_cast<size_t>(std::min(most, bytes - at)));
  }

  bool poll() {
    // Done messages leave the list one by one, so that it holds what may be given up if the next one throws.
    for (size_t i = 0; i < pending_.size();) {
      if (group_.transport_.done(pending_[i].message)) {
        pending_[i] = pending_.back();
        pending_.pop_back();
      } else {
        ++i;
      }
    }
    return pending_.empty();
  }

  [[noreturn]] void fail_late(double waited) const {
    std::set<int> late;
    for (const Pending& p : pending_) {
      const int rank = group_.ranks_[p.rank];
      if (!group_.transport_.has_ended(rank)) late.insert(rank);
    }
    group_.transport_.miss(std::vector<int>(late.begin(), late.end()));
    deeptitan::fail_late("rank {} has waited {:.3g} s in {} of group {}, {}, for rank{} {}: {}",
                         group_.transport_.rank(), waited, operation_, group_.name_, group_.when(ctx_),
                         late.size() == 1 ? "" : "s", fmt::join(late, ", "), kWhyRanksAreLate);
  }

  HostCommunicator& group_;
  const ExecutionContext& ctx_;
  const char* operation_;
  std::vector<Pending> pending_;
};

/// What `send` has begun.
struct HostCommunicator::SentTensor {
  const void* data;
  std::vector<Pending> pending;
};

HostCommunicator::HostCommunicator(Transport& transport, std::string name, std::vector<int> ranks, int channel,
                                   double deadline)
    : transport_(transport), name_(std::move(name)), ranks_(std::move(ranks)), channel_(channel), deadline_(deadline) {
  const auto here = std::find(ranks_.begin(), ranks_.end(), transport_.rank());
  DT_CHECK(here != ranks_.end(), "rank {} is not of group {}: [{}]", transport_.rank(), name_, fmt::join(ranks_, ", "));
  rank_ = static_cast<int>(here - ranks_.begin());
}

HostCommunicator::~HostCommunicator() {
  for (const SentTensor& sent : sent_) {
    for (const Pending& p : sent.pending) transport_.give_up(p.message);
  }
}

std::string HostCommunicator::when(const ExecutionContext& ctx) const {
  const int64_t step = step_of(ctx);
  if (step > 0) return fmt::format("in step {}", step);
  return last_step_ > 0 ? fmt::format("after step {}", last_step_) : "before the first step";
}

// Whatever is exchanged; a plan counts it. Many ranks have a piece each that is not cut further.
int64_t HostCommunicator::staging_bytes() const {
  return size() == 1 ? 0 : std::max(kStagingBytes, kSmallBytes * size());
}

void HostCommunicator::reserve_staging() {
  if (staging_.empty()) staging_.resize(static_cast<size_t>(staging_bytes()));
}

void HostCommunicator::add_up(Exchange& exchange, const Tensor& x, std::span<const int64_t> parts) {
  const auto width = static_cast<int64_t>(dtype_size(x.dtype()));
  const std::vector<int64_t> offsets = offsets_of(parts);
  auto* const data = static_cast<char*>(x.raw());
  // Elements of one rank that are on their way at a time; a multiple of 16 keeps the pieces aligned.
  const int64_t slice = std::max<int64_t>(16, kStagingBytes / width / size() / 16 * 16);
  reserve_staging();
  const int64_t longest = *std::max_element(parts.begin(), parts.end());
  for (int64_t begin = 0; begin < longest; begin += slice) {
    const auto count_of = [&](int r) { return std::clamp<int64_t>(parts[r] - begin, 0, slice); };
    const int64_t mine = count_of(rank_);
    char* const sum = data + (offsets[rank_] + begin) * width;
    for (int r = 0; r < size(); ++r) {
      if (r == rank_) continue;
      exchange.receive(staging_.data() + r * slice * width, mine * width, r);
      exchange.send(data + (offsets[r] + begin) * width, count_of(r) * width, r);
    }
    exchange.wait();
    // ((x0 + x1) + x2) + ...: the sum begins with rank 0's, wherever this rank's own stands.
    if (rank_ != 0 && mine > 0) {
      std::memcpy(staging_.data() + rank_ * slice * width, sum, mine * width);
      std::memcpy(sum, staging_.data(), mine * width);
    }
    for (int r = 1; r < size(); ++r) add(x.dtype(), sum, staging_.data() + r * slice * width, mine);
  }
}

void HostCommunicator::gather(Exchange& exchange, const Tensor& x, std::span<const int64_t> parts) {
  const auto width = static_cast<int64_t>(dtype_size(x.dtype()));
  const std::vector<int64_t> offsets = offsets_of(parts);
  auto* const data = static_cast<char*>(x.raw());
  for (int r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    exchange.receive(data + offsets[r] * width, parts[r] * width, r);
    exchange.send(data + offsets[rank_] * width, parts[rank_] * width, r);
  }
  exchange.wait();
}

void HostCommunicator::run_all_reduce(ExecutionContext& ctx, const Tensor& x) {
  if (size() == 1) return;
  Exchange exchange(*this, ctx, "all_reduce");
  if (x.bytes() > kSmallBytes) {
    const std::vector<int64_t> parts = even_parts(x.numel(), size());
    add_up(exchange, x, parts);
    gather(exchange, x, parts);
    return;
  }
  // Every rank makes the sum of all.
  reserve_staging();
  const auto staged = [&](int r) { return staging_.data() + r * x.bytes(); };
  auto* const sum = static_cast<char*>(x.raw());
  for (int r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    exchange.receive(staged(r), x.bytes(), r);
    exchange.send(sum, x.bytes(), r);
  }
  exchange.wait();
  std::memcpy(staged(rank_), sum, x.bytes());
  std::memcpy(sum, staged(0), x.bytes());
  for (int r = 1; r < size(); ++r) add(x.dtype(), sum, staged(r), x.numel());
}

void HostCommunicator::run_reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) {
  if (size() == 1) return;
  Exchange exchange(*this, ctx, "reduce_scatter");
  add_up(exchange, x, parts);
}

void HostCommunicator::run_all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) {
  Exchange exchange(*this, ctx, "all_gather");
  gather(exchange, x, parts);
}

void HostCommunicator::run_all_to_all(ExecutionContext& ctx, const Tensor& receive,
                                      std::span<const int64_t> receive_rows, const Tensor& send,
                                      std::span<const int64_t> send_rows) {
  const int64_t row = send.row_numel() * static_cast<int64_t>(dtype_size(send.dtype()));
  const std::vector<int64_t> to = offsets_of(send_rows);
  const std::vector<int64_t> from = offsets_of(receive_rows);
  const auto* const sent = static_cast<const char*>(send.raw());
  auto* const received = static_cast<char*>(receive.raw());
  Exchange exchange(*this, ctx, "all_to_all");
  for (int r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    exchange.receive(received + from[r] * row, receive_rows[r] * row, r);
    exchange.send(sent + to[r] * row, send_rows[r] * row, r);
  }
  if (send_rows[rank_] > 0) std::memcpy(received + from[rank_] * row, sent + to[rank_] * row, send_rows[rank_] * row);
  exchange.wait();
}

void HostCommunicator::run_send(ExecutionContext& ctx, const Tensor& x, int to) {
  Exchange exchange(*this, ctx, "send");
  exchange.send(static_cast<const char*>(x.raw()), x.bytes(), to);
  sent_.push_back({x.raw(), exchange.take_pending()});
}

void HostCommunicator::run_finish_sends(ExecutionContext& ctx, const Tensor& x) {
  Exchange exchange(*this, ctx, "send");
  for (SentTensor& sent : sent_) {
    if (!x.defined() || sent.data == x.raw()) exchange.adopt(std::exchange(sent.pending, {}));
  }
  std::erase_if(sent_, [](const SentTensor& sent) { return sent.pending.empty(); });
  exchange.wait();
}

void HostCommunicator::run_receive(ExecutionContext& ctx, const Tensor& x, int from) {
  Exchange exchange(*this, ctx, "receive");
  exchange.receive(static_cast<char*>(x.raw()), x.bytes(), from);
  exchange.wait();
}

void HostCommunicator::run_broadcast(ExecutionContext& ctx, const Tensor& x, int root) {
  Exchange exchange(*this, ctx, "broadcast");
  auto* const data = static_cast<char*>(x.raw());
  if (rank_ != root) exchange.receive(data, x.bytes(), root);
  for (int r = 0; rank_ == root && r < size(); ++r) {
    if (r != root) exchange.send(data, x.bytes(), r);
  }
  exchange.wait();
}

void HostCommunicator::run_barrier(ExecutionContext& ctx) {
  Exchange exchange(*this, ctx, "barrier");
  for (int r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    exchange.receive_nothing(r);
    exchange.send_nothing(r);
  }
  exchange.wait();
}

}  // namespace deeptitan

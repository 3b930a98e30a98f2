#include "comm/nccl_communicator.h"

#include <algorithm>
#include <utility>

#include <cuda_runtime_api.h>
#include <fmt/ranges.h>

#include "comm/late_rank.h"
#include "comm/nccl_library.h"
#include "comm/parts.h"
#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/rank_sum/rank_sum.h"

namespace deeptitan {
namespace {

// Up to here every rank is sent all of a sum's parts, and adds them up itself.
constexpr int64_t kSmallBytes = int64_t{256} << 10;
// Operations that are kept to be named; of more on their way the oldest are forgotten.
constexpr size_t kNamedOperations = 256;

cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

void add_in_order(DType type, char* sum, const char* parts, int64_t stride, int ranks, int own, int64_t count,
                  cudaStream_t stream) {
  const auto add = [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    cuda::add_in_rank_order(typed, reinterpret_cast<const T*>(parts), stride, ranks, own, count, stream);
  };
  switch (type) {
    case DType::kF32:
      return add(reinterpret_cast<float*>(sum));
    case DType::kF64:
      return add(reinterpret_cast<double*>(sum));
    case DType::kI32:
      return add(reinterpret_cast<int32_t*>(sum));
    default:
      fail("ranks add f32, f64 and i32; found {}", dtype_name(type));
  }
}

std::string when(int64_t step) {
  return step > 0 ? fmt::format("in step {}", step) : std::string("before the first step");
}

std::string others_of(const std::vector<int>& ranks) {
  return fmt::format("{}{}", ranks.size() == 1 ? "rank " : "one of ranks ", fmt::join(ranks, ", "));
}

}  // namespace

void NcclOperations::add(const ExecutionContext& ctx, const Stream& stream, const char* operation,
                         const std::string& group, const std::vector<int>& ranks) {
  if (stream.capturing()) return;
  while (!queued_.empty() && (queued_.size() >= kNamedOperations || queued_.front().over.done())) {
    queued_.pop_front();
  }
  Queued queued{Event(ctx.device), operation, group, ranks, ctx.step};
  queued.over.record(stream);
  queued_.push_back(std::move(queued));
}

std::string NcclOperations::oldest() const {
  for (const Queued& q : queued_) {
    if (q.over.done()) continue;
    return fmt::format("{} of group {}, {}, for {}", q.operation, q.group, when(q.step), others_of(q.ranks));
  }
  return "";
}

NcclHandle& NcclCommunicator::handle() const {
  DT_CHECK(parts_.handle != nullptr, "group {} has one rank, and nothing to exchange", name());
  return *parts_.handle;
}

void NcclCommunicator::queued_graph(ExecutionContext& ctx) {
  std::vector<int> others = parts_.ranks;
  others.erase(others.begin() + rank());
  parts_.operations->add(ctx, ctx.compute, "a graph with exchanges", name(), others);
}

const NcclCommunicator::Link& NcclCommunicator::link(const std::map<int, Link>& links, int rank) const {
  const auto found = links.find(rank);
  DT_CHECK(found != links.end(), "group {}: rank {} and rank {} are no neighbours, which alone send and receive",
           name(), this->rank(), rank);
  return found->second;
}

void NcclCommunicator::run_on(ExecutionContext& ctx, NcclHandle& handle, const Stream& stream, const char* operation,
                              std::span<const Message> messages) {
  const auto others = [&] {
    std::vector<int> world;
    for (const Message& m : messages) world.push_back(parts_.ranks[m.rank]);
    std::sort(world.begin(), world.end());
    world.erase(std::unique(world.begin(), world.end()), world.end());
    return world;
  };
  const bool of_two = &handle != parts_.handle.get();
  handle.run_group(
      [&] {
        for (const Message& m : messages) {
          const auto bytes = static_cast<size_t>(m.bytes);
          if (bytes == 0) continue;
          const int peer = of_two ? 1 - handle.rank() : m.rank;
          const ncclResult_t status = m.sends
                                          ? nccl().send(m.data, bytes, ncclUint8, peer, handle.get(), native(stream))
                                          : nccl().recv(m.data, bytes, ncclUint8, peer, handle.get(), native(stream));
          if (status != ncclInProgress) DT_NCCL_CHECK(status);
        }
      },
      [&](double waited) {
        if (waited < deadline()) return;
        fail_late("rank {} has waited {:g} s in {} of group {}, {}, for {}: {}", parts_.ranks[rank()], deadline(),
                  operation, name(), when(ctx.step), others_of(others()), kWhyRanksAreLate);
      });
  parts_.operations->add(ctx, stream, operation, name(), others());
}

void NcclCommunicator::exchange(ExecutionContext& ctx, const char* operation, std::span<const Message> messages) {
  const bool nothing = std::all_of(messages.begin(), messages.end(), [](const Message& m) { return m.bytes == 0; });
  if (!nothing) run_on(ctx, handle(), ctx.communication, operation, messages);
}

void NcclCommunicator::add_up(ExecutionContext& ctx, const char* operation, const Tensor& x,
                              std::span<const int64_t> parts) {
  const auto width = static_cast<int64_t>(dtype_size(x.dtype()));
  const std::vector<int64_t> offsets = offsets_of(parts);
  auto* const data = static_cast<char*>(x.raw());
  char* const staged = parts_.staging->memory.data();
  // Elements of one rank that are on their way at a time; a multiple of 64 keeps the pieces aligned.
  const int64_t slice = std::max<int64_t>(64, NcclStaging::kBytes / width / size() / 64 * 64);
  DT_CHECK(slice * size() * width <= NcclStaging::kBytes, "group {}: {} ranks are more than sums have room for", name(),
           size());
  const int64_t longest = *std::max_element(parts.begin(), parts.end());
  for (int64_t begin = 0; begin < longest; begin += slice) {
    const auto count_of = [&](int r) { return std::clamp<int64_t>(parts[r] - begin, 0, slice); };
    const int64_t mine = count_of(rank());
    std::vector<Message> messages;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      messages.push_back({data + (offsets[r] + begin) * width, count_of(r) * width, r, true});
      messages.push_back({staged + r * slice * width, mine * width, r, false});
    }
    exchange(ctx, operation, messages);
    add_in_order(x.dtype(), data + (offsets[rank()] + begin) * width, staged, slice, size(), rank(), mine,
                 native(ctx.communication));
  }
}

void NcclCommunicator::gather(ExecutionContext& ctx, const char* operation, const Tensor& x,
                              std::span<const int64_t> parts) {
  const auto width = static_cast<int64_t>(dtype_size(x.dtype()));
  const std::vector<int64_t> offsets = offsets_of(parts);
  auto* const data = static_cast<char*>(x.raw());
  std::vector<Message> messages;
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    messages.push_back({data + offsets[rank()] * width, parts[rank()] * width, r, true});
    messages.push_back({data + offsets[r] * width, parts[r] * width, r, false});
  }
  exchange(ctx, operation, messages);
}

void NcclCommunicator::run_all_reduce(ExecutionContext& ctx, const Tensor& x) {
  if (size() == 1) return;
  const int64_t most = std::min(kSmallBytes, NcclStaging::kBytes / size() / 256 * 256);
  if (x.bytes() > most) {
    const std::vector<int64_t> parts = even_parts(x.numel(), size());
    add_up(ctx, "all_reduce", x, parts);
    gather(ctx, "all_reduce", x, parts);
    return;
  }
  // Every rank makes the sum of all.
  auto* const sum = static_cast<char*>(x.raw());
  char* const staged = parts_.staging->memory.data();
  const auto width = static_cast<int64_t>(dtype_size(x.dtype()));
  std::vector<Message> messages;
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    messages.push_back({sum, x.bytes(), r, true});
    messages.push_back({staged + r * most, x.bytes(), r, false});
  }
  exchange(ctx, "all_reduce", messages);
  add_in_order(x.dtype(), sum, staged, most / width, size(), rank(), x.numel(), native(ctx.communication));
}

void NcclCommunicator::run_reduce_scatter(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) {
  if (size() > 1) add_up(ctx, "reduce_scatter", x, parts);
}

void NcclCommunicator::run_all_gather(ExecutionContext& ctx, const Tensor& x, std::span<const int64_t> parts) {
  if (size() > 1) gather(ctx, "all_gather", x, parts);
}

void NcclCommunicator::run_all_to_all(ExecutionContext& ctx, const Tensor& receive,
                                      std::span<const int64_t> receive_rows, const Tensor& send,
                                      std::span<const int64_t> send_rows) {
  const int64_t row = send.row_numel() * static_cast<int64_t>(dtype_size(send.dtype()));
  const std::vector<int64_t> to = offsets_of(send_rows);
  const std::vector<int64_t> from = offsets_of(receive_rows);
  auto* const sent = static_cast<char*>(send.raw());
  auto* const received = static_cast<char*>(receive.raw());
  std::vector<Message> messages;
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    messages.push_back({sent + to[r] * row, send_rows[r] * row, r, true});
    messages.push_back({received + from[r] * row, receive_rows[r] * row, r, false});
  }
  if (send_rows[rank()] > 0) {
    ctx.communication.copy(received + from[rank()] * row, sent + to[rank()] * row, send_rows[rank()] * row);
  }
  if (size() > 1) exchange(ctx, "all_to_all", messages);
}

void NcclCommunicator::run_send(ExecutionContext& ctx, const Tensor& x, int to) {
  const Link& there = link(parts_.to, to);
  Event written(ctx.device);
  written.record(ctx.communication);
  written.make_wait(there.stream);
  const Message message{static_cast<char*>(x.raw()), x.bytes(), to, true};
  run_on(ctx, *there.handle, there.stream, "send", std::span(&message, 1));
  Sent sent{x.raw(), Event(ctx.device)};
  sent.over.record(there.stream);
  sent_.push_back(std::move(sent));
}

// The host waits for nothing: what is queued from now on does.
void NcclCommunicator::run_finish_sends(ExecutionContext& ctx, const Tensor& x) {
  std::erase_if(sent_, [&](const Sent& sent) {
    if (x.defined() && sent.data != x.raw()) return false;
    sent.over.make_wait(ctx.compute);
    return true;
  });
}

void NcclCommunicator::run_receive(ExecutionContext& ctx, const Tensor& x, int from) {
  const Link& there = link(parts_.from, from);
  Event free(ctx.device), received(ctx.device);
  free.record(ctx.communication);
  free.make_wait(there.stream);
  const Message message{static_cast<char*>(x.raw()), x.bytes(), from, false};
  run_on(ctx, *there.handle, there.stream, "receive", std::span(&message, 1));
  received.record(there.stream);
  received.make_wait(ctx.communication);
}

void NcclCommunicator::run_broadcast(ExecutionContext& ctx, const Tensor& x, int root) {
  if (size() == 1) return;
  auto* const data = static_cast<char*>(x.raw());
  std::vector<Message> messages;
  if (rank() != root) messages.push_back({data, x.bytes(), root, false});
  for (int r = 0; rank() == root && r < size(); ++r) {
    if (r != root) messages.push_back({data, x.bytes(), r, true});
  }
  exchange(ctx, "broadcast", messages);
}

void NcclCommunicator::run_barrier(ExecutionContext& ctx) {
  if (size() > 1) {
    char* const staged = parts_.staging->memory.data();
    std::vector<Message> messages;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      messages.push_back({staged, 1, r, true});
      messages.push_back({staged + 16 * (r + 1), 1, r, false});
    }
    exchange(ctx, "barrier", messages);
  }
  ctx.communication.synchronize();
}

}  // namespace deeptitan

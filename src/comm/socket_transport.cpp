#include "comm/socket_transport.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"

namespace deeptitan {
namespace {

// A rank that another one's end is no matter to has ended by then, too.
constexpr double kGraceSeconds = 2;

}  // namespace

SocketTransport::SocketTransport(int rank, std::vector<int> sockets, HowTheyEnded how_they_ended)
    : rank_(rank), peers_(sockets.size()), how_they_ended_(std::move(how_they_ended)) {
  for (size_t r = 0; r < sockets.size(); ++r) peers_[r].socket = sockets[r];
}

SocketTransport::~SocketTransport() {
  for (const Peer& peer : peers_) {
    if (peer.socket >= 0) ::close(peer.socket);
  }
}

Transport::Message SocketTransport::begin_send(const void* data, size_t bytes, int to, int channel) {
  const Message message = next_++;
  auto* const from = const_cast<char*>(static_cast<const char*>(data));
  begun_[message] = {.peer = to, .channel = channel, .data = from, .bytes = bytes, .sent = true};
  Peer& peer = peers_[to];
  peer.outgoing.push_back({message, {channel, static_cast<int64_t>(bytes)}, from});
  if (peer.outgoing.size() == 1) write_to(peer);
  return message;
}

Transport::Message SocketTransport::begin_receive(void* data, size_t bytes, int from, int channel) {
  const Message message = next_++;
  begun_[message] = {.peer = from, .channel = channel, .data = static_cast<char*>(data), .bytes = bytes, .sent = false};
  peers_[from].expected[channel].push_back(message);
  give_out(peers_[from], channel);
  return message;
}

bool SocketTransport::done(Message message) {
  Begun& begun = begun_.at(message);
  if (!begun.done && begun.problem.empty()) progress();
  DT_CHECK(begun.problem.empty(), "{}", begun.problem);
  if (begun.done) {
    begun_.erase(message);
    return true;
  }
  check_ended(begun.peer);
  return false;
}

void SocketTransport::check_ended(int peer) {
  std::vector<int> ended;
  for (size_t r = 0; r < peers_.size(); ++r) {
    if (peers_[r].ended) ended.push_back(static_cast<int>(r));
  }
  if (ended.empty()) return;
  // Who is missed says for whom it waits itself.
  const auto waits_for_living = [&](const auto& begun) { return !begun.second.done && !has_ended(begun.second.peer); };
  if (missed_ && std::any_of(begun_.begin(), begun_.end(), waits_for_living)) return;
  const double now = monotonic_seconds();
  if (ended_since_ == 0) ended_since_ = now;
  if (!peers_[peer].ended && now - ended_since_ < kGraceSeconds) return;
  fail("{}", how_they_ended_ ? how_they_ended_(ended) : fmt::format("rank {} has ended", ended.front()));
}

// What has begun to go or to come cannot be taken back: the stream would go on in the midst of a message.
void SocketTransport::give_up(Message message) noexcept {
  const auto found = begun_.find(message);
  if (found == begun_.end()) return;
  const Begun& begun = found->second;
  Peer& peer = peers_[begun.peer];
  if (begun.sent) {
    const auto outgoing = std::find_if(peer.outgoing.begin(), peer.outgoing.end(),
                                       [&](const Outgoing& o) { return o.message == message; });
    if (outgoing != peer.outgoing.end() && outgoing->sent == 0) {
      peer.outgoing.erase(outgoing);
    } else if (outgoing != peer.outgoing.end()) {
      ::shutdown(peer.socket, SHUT_RDWR);
      peer.outgoing.clear();
    }
  } else {
    const auto expected = peer.expected.find(begun.channel);
    if (expected != peer.expected.end()) std::erase(expected->second, message);
    if (peer.incoming.message == message && !begun.done) {
      ::shutdown(peer.socket, SHUT_RDWR);
      peer.incoming = {};
      peer.ended = true;
    }
  }
  begun_.erase(found);
}

// A socket that is full is one whose rank does not read.
void SocketTransport::miss(std::span<const int> ranks) noexcept {
  for (const int r : ranks) begin_send(nullptr, 0, r, kMissedChannel);
}

void SocketTransport::progress() {
  std::vector<pollfd> files;
  std::vector<Peer*> of_file;
  for (Peer& peer : peers_) {
    if (peer.socket < 0 || peer.ended) continue;
    files.push_back({peer.socket, static_cast<short>(peer.outgoing.empty() ? POLLIN : POLLIN | POLLOUT), 0});
    of_file.push_back(&peer);
  }
  if (::poll(files.data(), files.size(), 0) <= 0) return;
  for (size_t i = 0; i < files.size(); ++i) {
    if ((files[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read_from(*of_file[i]);
    if ((files[i].revents & POLLOUT) != 0) write_to(*of_file[i]);
  }
}

void SocketTransport::write_to(Peer& peer) {
  while (!peer.outgoing.empty()) {
    Outgoing& next = peer.outgoing.front();
    const size_t all = sizeof(Header) + static_cast<size_t>(next.header.bytes);
    iovec parts[2] = {};
    const size_t of_header = std::min(next.sent, sizeof(Header)), of_data = next.sent - of_header;
    parts[0] = {reinterpret_cast<char*>(&next.header) + of_header, sizeof(Header) - of_header};
    parts[1] = {const_cast<char*>(next.data) + of_data, all - sizeof(Header) - of_data};
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const ssize_t sent = ::sendmsg(peer.socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    // One that has gone is noticed where it is read from, behind what it has still sent.
    if (sent < 0) return;
    next.sent += static_cast<size_t>(sent);
    if (next.sent < all) return;
    begun_.at(next.message).done = true;
    peer.outgoing.pop_front();
  }
}

size_t SocketTransport::read_some(Peer& peer, char* to, size_t bytes) {
  while (true) {
    const ssize_t found = ::recv(peer.socket, to, bytes, MSG_DONTWAIT);
    if (found > 0) return static_cast<size_t>(found);
    if (found < 0 && errno == EINTR) continue;
    if (found == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) peer.ended = true;
    return 0;
  }
}

void SocketTransport::read_from(Peer& peer) {
  Incoming& in = peer.incoming;
  while (true) {
    if (in.header_read < sizeof(Header)) {
      const size_t found =
          read_some(peer, reinterpret_cast<char*>(&in.header) + in.header_read, sizeof(Header) - in.header_read);
      if (found == 0) return;
      in.header_read += found;
      if (in.header_read < sizeof(Header)) continue;
      choose_place(peer);
    }
    const size_t left = static_cast<size_t>(in.header.bytes) - in.read;
    if (left > 0) {
      const size_t found = read_some(peer, in.to + in.read, left);
      if (found == 0) return;
      in.read += found;
    }
    if (in.read == static_cast<size_t>(in.header.bytes)) finish_incoming(peer);
  }
}

void SocketTransport::choose_place(Peer& peer) {
  Incoming& in = peer.incoming;
  std::deque<Message>& expected = peer.expected[in.header.channel];
  if (!expected.empty() && peer.arrived[in.header.channel].empty()) {
    Begun& begun = begun_.at(expected.front());
    if (begun.bytes == static_cast<size_t>(in.header.bytes)) {
      in.message = expected.front();
      in.to = begun.data;
    } else {
      refuse(begun, static_cast<size_t>(in.header.bytes));
      in.unwanted = true;
    }
    expected.pop_front();
  }
  if (in.message != kNone) return;
  in.aside.resize(static_cast<size_t>(in.header.bytes));
  in.to = in.aside.data();
}

void SocketTransport::finish_incoming(Peer& peer) {
  Incoming in = std::exchange(peer.incoming, {});
  if (in.message != kNone) {
    begun_.at(in.message).done = true;
  } else if (in.header.channel == kMissedChannel) {
    peer.ends = missed_ = true;
  } else if (!in.unwanted) {
    peer.arrived[in.header.channel].push_back(std::move(in.aside));
    give_out(peer, in.header.channel);
  }
}

void SocketTransport::give_out(Peer& peer, int64_t channel) {
  std::deque<Message>& expected = peer.expected[channel];
  std::deque<std::vector<char>>& arrived = peer.arrived[channel];
  while (!expected.empty() && !arrived.empty()) {
    Begun& begun = begun_.at(expected.front());
    if (begun.bytes == arrived.front().size()) {
      std::copy(arrived.front().begin(), arrived.front().end(), begun.data);
      begun.done = true;
    } else {
      refuse(begun, arrived.front().size());
    }
    expected.pop_front();
    arrived.pop_front();
  }
}

void SocketTransport::refuse(Begun& begun, size_t found) {
  begun.problem =
      fmt::format("rank {} expected {} bytes of rank {}, which sent {}", rank_, begun.bytes, begun.peer, found);
}

std::vector<std::vector<int>> connect_all(int ranks) {
  std::vector<std::vector<int>> ends(ranks, std::vector<int>(ranks, -1));
  for (int a = 0; a < ranks; ++a) {
    for (int b = a + 1; b < ranks; ++b) {
      int pair[2];
      DT_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
               "no sockets for {} ranks: {}; let a launcher (mpirun, srun) start so many, or raise the limit of open "
               "files (ulimit -n)",
               ranks, std::strerror(errno));
      ends[a][b] = pair[0];
      ends[b][a] = pair[1];
    }
  }
  return ends;
}

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/transport.h"

namespace deeptitan {

/// Between processes of one host, each of which is connected with each other by a stream socket. A rank whose end of a
/// socket is closed has ended: who waits for it throws Error at once, and who waits for another soon, because that one
/// may wait for it. Where that one has waited for this one in vain, this one first says for whom it waits itself.
class SocketTransport final : public Transport {
 public:
  /// What is said of ranks that have ended: "rank 3 was killed by signal 9".
  using HowTheyEnded = std::function<std::string(const std::vector<int>& ranks)>;

  /// sockets[r] leads to rank r, and is closed with the transport; that of this rank is left out (-1).
  SocketTransport(int rank, std::vector<int> sockets, HowTheyEnded how_they_ended = {});
  ~SocketTransport() override;
  SocketTransport(const SocketTransport&) = delete;
  SocketTransport& operator=(const SocketTransport&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  size_t max_message() const override { return size_t{1} << 30; }
  Message begin_send(const void* data, size_t bytes, int to, int channel) override;
  Message begin_receive(void* data, size_t bytes, int from, int channel) override;
  bool done(Message message) override;
  void give_up(Message message) noexcept override;
  void miss(std::span<const int> ranks) noexcept override;
  bool missed() const override { return missed_; }
  bool has_ended(int rank) const override { return peers_[rank].ended || peers_[rank].ends; }

 private:
  static constexpr Message kNone = -1;
  // No group's: an empty message over it is what `miss` says.
  static constexpr int kMissedChannel = -1;

  // Stands before the bytes of each message.
  struct Header {
    int64_t channel = 0;
    int64_t bytes = 0;
  };
  struct Outgoing {
    Message message;
    Header header;
    const char* data;
    size_t sent = 0;  // of the header and the data together
  };
  // The message that is coming from a rank: it goes to who waits for it, or is kept aside until somebody does.
  struct Incoming {
    Header header;
    size_t header_read = 0;
    Message message = kNone;  // that it is for; kNone: aside
    bool unwanted = false;    // it has not the length that was expected
    char* to = nullptr;
    size_t read = 0;
    std::vector<char> aside;
  };
  struct Peer {
    int socket = -1;
    bool ended = false;
    bool ends = false;  // it has said so
    std::deque<Outgoing> outgoing;
    Incoming incoming;
    // By channel.
    std::map<int64_t, std::deque<Message>> expected;
    std::map<int64_t, std::deque<std::vector<char>>> arrived;
  };
  struct Begun {
    int peer;
    int64_t channel;
    char* data;
    size_t bytes;
    bool sent;
    bool done = false;
    std::string problem = {};
  };

  // Moves what can be moved without waiting, to and from all ranks.
  void progress();
  void write_to(Peer& peer);
  void read_from(Peer& peer);
  // recv into [to, to + bytes); 0: nothing is there, or the rank has ended.
  static size_t read_some(Peer& peer, char* to, size_t bytes);
  void choose_place(Peer& peer);
  void finish_incoming(Peer& peer);
  void give_out(Peer& peer, int64_t channel);
  void refuse(Begun& begun, size_t found);
  // Throws where a message to or from `peer` will never come, because of a rank that has ended.
  void check_ended(int peer);

  int rank_;
  std::vector<Peer> peers_;
  HowTheyEnded how_they_ended_;
  std::map<Message, Begun> begun_;
  Message next_ = 0;
  double ended_since_ = 0;  // when it was noticed that a rank has; 0: none has
  bool missed_ = false;
};

/// Pairs of connected sockets between all of `ranks` ranks: result[a][b] is a's end of that between a and b.
std::vector<std::vector<int>> connect_all(int ranks);

}  // namespace deeptitan

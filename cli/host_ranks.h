#pragma once

#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "comm/socket_transport.h"

namespace deeptitan {

/// This process and copies of it as the ranks of one host, connected by sockets. The first is the process that was
/// there before: it keeps the terminal, and the others end with it, however it ends.
class HostRanks {
 public:
  /// Returns in each of the processes, as early as possible: threads that were started before are not in the copies.
  explicit HostRanks(int ranks);
  /// Ends the others at once; they have nothing that would be lost.
  ~HostRanks();
  HostRanks(const HostRanks&) = delete;
  HostRanks& operator=(const HostRanks&) = delete;

  Transport& transport() { return *transport_; }
  int size() const { return transport_->size(); }
  /// To be called by the first when the others have been told that all is done: waits until they have ended.
  void finish();
  /// Of the first, where something has failed that all have a part in: gives the others a moment to say what they know,
  /// unless it is known that one was killed.
  void let_others_speak();

 private:
  struct Child {
    pid_t pid = 0;
    bool ended = false;
    int status = 0;
  };
  void begin_child(int rank);
  // Of ranks that have closed their sockets; waits a little for them to end.
  std::string how_they_ended(const std::vector<int>& ranks);
  std::string how_it_ended(size_t child) const;
  static bool wait_for(Child& child, double seconds);

  std::vector<Child> children_;  // of rank 1 and on; none in a child
  std::unique_ptr<SocketTransport> transport_;
};

}  // namespace deeptitan

#pragma once

#include <algorithm>
#include <vector>

#include "comm/communicator.h"
#include "comm/peer_memory.h"

namespace deeptitan {

/// Who trains with whom. A group that is left out is this rank alone. The communicators belong to somebody else and
/// outlive what is given them.
struct RankGroups {
  /// The ranks that hold the same parameters. Each rank of `shard` keeps the optimizer of a part of them, and the ranks
  /// of `replicate` keep that of the same part.
  struct Copies {
    Communicator* shard = nullptr;
    Communicator* replicate = nullptr;
  };

  Communicator* host = nullptr;   // all ranks of the run, for what lies in the host's memory
  Communicator* world = nullptr;  // the same, for what lies where they compute
  Communicator* data = nullptr;   // those that have sequences of their own: expert x data parallelism
  Communicator* ep = nullptr;     // those that share out each layer's experts: the rank-th of equal parts each
  /// Where kernels of the ranks of `ep` reach each other's memory: rows go from kernel to kernel. nullptr: over `ep`.
  PeerMemory* expert_memory = nullptr;
  /// Where each rank of `dense.shard` reads the others' gradients, which it adds up from where they lie. nullptr: they
  /// are exchanged.
  PeerMemory* gradient_memory = nullptr;
  /// The same memory, where each fetches what the others have updated from where it lies. nullptr: it is exchanged.
  PeerMemory* value_memory = nullptr;
  /// The stages of one model, twice, so that what goes forward and what goes backward each arrive in the order in which
  /// they were sent. A rank holds its stages alone; left out, this process runs the stages of all ranks.
  Communicator* pipeline = nullptr;
  Communicator* pipeline_backward = nullptr;
  Copies dense;    // of everything but the experts: together the ranks of `data`
  Copies experts;  // of this rank's experts: together the ranks of data parallelism

  bool pipelined() const { return pipeline != nullptr; }
};

inline int ranks_in(const Communicator* group) {
  return group == nullptr ? 1 : group->size();
}
inline int rank_in(const Communicator* group) {
  return group == nullptr ? 0 : group->rank();
}

/// What ranks reach of each other's memory.
inline std::vector<PeerMemory*> memories_of_ranks(const RankGroups& groups) {
  std::vector<PeerMemory*> result;
  for (PeerMemory* memory : {groups.expert_memory, groups.gradient_memory, groups.value_memory}) {
    if (memory != nullptr && std::find(result.begin(), result.end(), memory) == result.end()) result.push_back(memory);
  }
  return result;
}

/// The groups of more than one rank, each once.
inline std::vector<Communicator*> groups_of_ranks(const RankGroups& groups) {
  std::vector<Communicator*> result;
  for (Communicator* group :
       {groups.ep, groups.dense.shard, groups.dense.replicate, groups.experts.shard, groups.experts.replicate,
        groups.pipeline, groups.pipeline_backward, groups.data, groups.world, groups.host}) {
    if (ranks_in(group) > 1 && std::find(result.begin(), result.end(), group) == result.end()) result.push_back(group);
  }
  return result;
}

}  // namespace deeptitan

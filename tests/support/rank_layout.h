#pragma once

#include <functional>
#include <vector>

#include "comm/mesh.h"
#include "comm/thread_ranks.h"
#include "parallel/host_groups.h"

namespace deeptitan::testing {

/// All layouts of so many ranks without a pipeline.
inline std::vector<Mesh> meshes_of(const std::vector<int>& ranks) {
  std::vector<Mesh> meshes;
  for (const int all : ranks) {
    for (int ep = 1; ep <= all; ++ep) {
      for (int replicate = 1; replicate <= all; ++replicate) {
        if (all % (ep * replicate) != 0) continue;
        meshes.push_back({.pp = 1, .ep = ep, .dp_shard = all / (ep * replicate), .dp_replicate = replicate});
      }
    }
  }
  return meshes;
}

/// Runs a function as every rank of a mesh, each in a thread.
inline void run_on_mesh(const Mesh& mesh, const std::function<void(const RankGroups&)>& body) {
  run_thread_ranks(mesh.world(), [&](Transport& transport) {
    const HostGroups groups(transport, mesh);
    body(groups.groups());
  });
}

}  // namespace deeptitan::testing

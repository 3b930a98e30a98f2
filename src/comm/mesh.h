#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"

namespace deeptitan {

/// Which ranks exchange what.
enum class MeshGroup {
  kWorld,        // all
  kPipeline,     // "pp": the stages of one microbatch
  kExpert,       // "ep": every rank of it has other experts and other tokens
  kData,         // "ep x dp": every rank of it has other tokens
  kDenseShard,   // "ep x dp_shard": the part of it that shares out the optimizer's state of all but the experts
  kExpertShard,  // "dp_shard": the part of it that has the same experts, and shares out the state of these
  kReplicate,    // "dp_replicate": the part of it that holds the same of either
};

/// "world", "pp", "ep", ...
const char* group_name(MeshGroup group);

/// A rank's place in each dimension.
struct MeshPlace {
  int pp = 0;
  int replicate = 0;
  int shard = 0;
  int ep = 0;
  bool operator==(const MeshPlace&) const = default;
};

/// How the ranks of a run are laid out: a box of four dimensions, of which the experts' is the innermost (its ranks are
/// neighbours, on one host where they fit) and the pipeline's the outermost:
///
///     rank = ((pp * dp_replicate + replicate) * dp_shard + shard) * ep + expert
struct Mesh {
  int pp = 1;
  int ep = 1;
  int dp_shard = 1;
  int dp_replicate = 1;
  bool operator==(const Mesh&) const = default;

  int world() const { return pp * ep * dp_shard * dp_replicate; }
  /// Ranks that take different sequences of a step: all of one pipeline stage.
  int data_ranks() const { return ep * dp_shard * dp_replicate; }
  MeshPlace place(int rank) const;
  int rank_at(const MeshPlace& place) const;
  /// Which of data_ranks() a rank is: ranks of the stages of one pipeline have the same.
  int data_rank(int rank) const { return rank % data_ranks(); }
  /// The ranks of `rank`'s group, in rising order.
  std::vector<int> group(MeshGroup group, int rank) const;
  /// "2 ranks: pp 1 x ep 2 x dp_shard 1 x dp_replicate 1"
  std::string describe() const;
};

/// The mesh that [parallelism] asks for on `ranks` ranks. Throws a usage error where the product of the degrees is not
/// their number. It lists possible layouts; of `model`, those that divide its experts and have layers for each stage.
Mesh make_mesh(const RunConfig::Parallelism& parallelism, int ranks, const ModelConfig* model = nullptr);

/// Throws a usage error where a model of this shape cannot be laid out so: experts that cannot be divided, more stages
/// than layers, or a global batch that is not whole microbatches on every rank.
void check_mesh(const Mesh& mesh, const RunConfig& config, const ModelConfig& model);

}  // namespace deeptitan

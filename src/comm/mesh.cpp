#include "comm/mesh.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "core/error.h"

namespace deeptitan {
namespace {

// Which dimensions a group runs along.
struct Along {
  bool pp, replicate, shard, ep;
};

Along along(MeshGroup group) {
  switch (group) {
    case MeshGroup::kWorld:
      return {true, true, true, true};
    case MeshGroup::kPipeline:
      return {true, false, false, false};
    case MeshGroup::kExpert:
      return {false, false, false, true};
    case MeshGroup::kData:
      return {false, true, true, true};
    case MeshGroup::kDenseShard:
      return {false, false, true, true};
    case MeshGroup::kExpertShard:
      return {false, false, true, false};
    case MeshGroup::kReplicate:
      return {false, true, false, false};
  }
  return {};
}

std::vector<int> divisors(int number) {
  std::vector<int> result;
  for (int d = 1; d <= number; ++d) {
    if (number % d == 0) result.push_back(d);
  }
  return result;
}

bool divides_experts(int ep, const ModelConfig& model) {
  return ep == 1 || (model.n_routed_experts > 0 && model.n_routed_experts % ep == 0);
}

bool has_layers_for(int pp, const RunConfig::Parallelism& wanted, const ModelConfig& model) {
  return pp == 1 || pp * wanted.stages_per_rank() <= model.num_hidden_layers;
}

// A few layouts of `ranks` ranks that the model can have, those first that keep most of the degrees asked for.
std::vector<std::string> possible_layouts(const RunConfig::Parallelism& wanted, int ranks, const ModelConfig* model) {
  struct Layout {
    int kept;
    Mesh mesh;
  };
  std::vector<Layout> layouts;
  for (const int pp : divisors(ranks)) {
    if (model != nullptr && !has_layers_for(pp, wanted, *model)) continue;
    for (const int ep : divisors(ranks / pp)) {
      if (model != nullptr && !divides_experts(ep, *model)) continue;
      const int left = ranks / pp / ep;
      for (const int replicate : divisors(left)) {
        const Mesh mesh{.pp = pp, .ep = ep, .dp_shard = left / replicate, .dp_replicate = replicate};
        layouts.push_back({(pp == wanted.pipeline_parallel_degree) + (ep == wanted.expert_parallel_degree) +
                               (replicate == wanted.data_parallel_replicate_degree) +
                               (mesh.dp_shard == wanted.data_parallel_shard_degree),
                           mesh});
      }
    }
  }
  std::stable_sort(layouts.begin(), layouts.end(), [](const Layout& a, const Layout& b) { return a.kept > b.kept; });
  constexpr size_t kShown = 6;
  std::vector<std::string> result;
  for (size_t i = 0; i < std::min(kShown, layouts.size()); ++i) {
    const Mesh& m = layouts[i].mesh;
    result.push_back(fmt::format("{} x {} x {} x {}", m.pp, m.ep, m.dp_shard, m.dp_replicate));
  }
  return result;
}

// "1, 2, 4, 8": those of the divisors that are at most `most`.
std::string divisor_words(int64_t number, int64_t most) {
  std::vector<int64_t> shown;
  for (int64_t d = 1; d <= std::min(number, most); ++d) {
    if (number % d == 0) shown.push_back(d);
  }
  return fmt::format("{}", fmt::join(shown, ", "));
}

}  // namespace

const char* group_name(MeshGroup group) {
  switch (group) {
    case MeshGroup::kWorld:
      return "world";
    case MeshGroup::kPipeline:
      return "pp";
    case MeshGroup::kExpert:
      return "ep";
    case MeshGroup::kData:
      return "ep x dp";
    case MeshGroup::kDenseShard:
      return "ep x dp_shard";
    case MeshGroup::kExpertShard:
      return "dp_shard";
    case MeshGroup::kReplicate:
      return "dp_replicate";
  }
  return "";
}

MeshPlace Mesh::place(int rank) const {
  MeshPlace place;
  place.ep = rank % ep;
  place.shard = rank / ep % dp_shard;
  place.replicate = rank / ep / dp_shard % dp_replicate;
  place.pp = rank / ep / dp_shard / dp_replicate;
  return place;
}

int Mesh::rank_at(const MeshPlace& place) const {
  return ((place.pp * dp_replicate + place.replicate) * dp_shard + place.shard) * ep + place.ep;
}

std::vector<int> Mesh::group(MeshGroup group, int rank) const {
  const Along free = along(group);
  const MeshPlace mine = place(rank);
  std::vector<int> ranks;
  for (int r = 0; r < world(); ++r) {
    const MeshPlace other = place(r);
    if ((free.pp || other.pp == mine.pp) && (free.replicate || other.replicate == mine.replicate) &&
        (free.shard || other.shard == mine.shard) && (free.ep || other.ep == mine.ep)) {
      ranks.push_back(r);
    }
  }
  return ranks;
}

std::string Mesh::describe() const {
  return fmt::format("{} rank{}: pp {} x ep {} x dp_shard {} x dp_replicate {}", world(), world() == 1 ? "" : "s", pp,
                     ep, dp_shard, dp_replicate);
}

Mesh make_mesh(const RunConfig::Parallelism& p, int ranks, const ModelConfig* model) {
  // Every degree is at most 2^20 (the key's range): the product of three fits, that of four might not.
  const int64_t without_shards =
      p.pipeline_parallel_degree * p.expert_parallel_degree * p.data_parallel_replicate_degree;
  const bool rest = p.data_parallel_shard_degree == -1;
  const int64_t shards = rest ? std::max<int64_t>(1, ranks / without_shards) : p.data_parallel_shard_degree;
  DT_CHECK_USAGE(
      without_shards <= ranks && without_shards * shards == ranks,
      "parallelism: pipeline_parallel_degree = {} x expert_parallel_degree = {} x data_parallel_shard_degree = {} x "
      "data_parallel_replicate_degree = {} is not a layout of the {} rank{} that {} there; layouts that are, in this "
      "order: {}",
      p.pipeline_parallel_degree, p.expert_parallel_degree,
      rest ? "-1 (what is left)" : fmt::format("{}", p.data_parallel_shard_degree), p.data_parallel_replicate_degree,
      ranks, ranks == 1 ? "" : "s", ranks == 1 ? "is" : "are", fmt::join(possible_layouts(p, ranks, model), "; "));
  return {.pp = static_cast<int>(p.pipeline_parallel_degree),
          .ep = static_cast<int>(p.expert_parallel_degree),
          .dp_shard = static_cast<int>(shards),
          .dp_replicate = static_cast<int>(p.data_parallel_replicate_degree)};
}

void check_mesh(const Mesh& mesh, const RunConfig& config, const ModelConfig& model) {
  DT_CHECK_USAGE(divides_experts(mesh.ep, model),
                 "parallelism.expert_parallel_degree = {} does not divide n_routed_experts = {}; use {}", mesh.ep,
                 model.n_routed_experts,
                 model.n_routed_experts == 0 ? "1" : divisor_words(model.n_routed_experts, model.n_routed_experts));
  const auto& p = config.parallelism;
  const int64_t chunks = p.stages_per_rank();
  DT_CHECK_USAGE(mesh.pp * chunks <= model.num_hidden_layers,
                 "parallelism.pipeline_parallel_degree = {} with {} stage{} a rank is more stages than the model's {} "
                 "layers; use at most {}",
                 mesh.pp, chunks, chunks == 1 ? "" : "s", model.num_hidden_layers,
                 std::max<int64_t>(1, model.num_hidden_layers / chunks));
  const int64_t unit = config.training.local_batch_size * mesh.data_ranks();
  DT_CHECK_USAGE(
      config.training.global_batch_size % unit == 0,
      "training.global_batch_size = {} is not a multiple of training.local_batch_size = {} times the {} ranks "
      "that take different sequences; use {} or {}",
      config.training.global_batch_size, config.training.local_batch_size, mesh.data_ranks(),
      std::max<int64_t>(1, config.training.global_batch_size / unit) * unit,
      (config.training.global_batch_size / unit + 1) * unit);
}

}  // namespace deeptitan

#include "comm/mesh.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

constexpr MeshGroup kGroups[] = {MeshGroup::kWorld,    MeshGroup::kPipeline,   MeshGroup::kExpert,
                                 MeshGroup::kData,     MeshGroup::kDenseShard, MeshGroup::kExpertShard,
                                 MeshGroup::kReplicate};

RunConfig::Parallelism degrees(int64_t pp, int64_t ep, int64_t shard, int64_t replicate) {
  RunConfig::Parallelism p;
  p.pipeline_parallel_degree = pp;
  p.expert_parallel_degree = ep;
  p.data_parallel_shard_degree = shard;
  p.data_parallel_replicate_degree = replicate;
  return p;
}

TEST(Mesh, NumbersRanksFromTheExpertsOutwards) {
  const Mesh mesh{.pp = 2, .ep = 2, .dp_shard = 3, .dp_replicate = 2};
  EXPECT_EQ(mesh.world(), 24);
  EXPECT_EQ(mesh.data_ranks(), 12);
  EXPECT_EQ(mesh.place(13), (MeshPlace{.pp = 1, .replicate = 0, .shard = 0, .ep = 1}));
  EXPECT_EQ(mesh.place(10), (MeshPlace{.pp = 0, .replicate = 1, .shard = 2, .ep = 0}));
  EXPECT_EQ(mesh.data_rank(13), mesh.data_rank(1));
  EXPECT_EQ(mesh.group(MeshGroup::kExpert, 13), (std::vector<int>{12, 13}));
  EXPECT_EQ(mesh.group(MeshGroup::kPipeline, 13), (std::vector<int>{1, 13}));
  EXPECT_EQ(mesh.group(MeshGroup::kExpertShard, 13), (std::vector<int>{13, 15, 17}));
  EXPECT_EQ(mesh.group(MeshGroup::kReplicate, 13), (std::vector<int>{13, 19}));
  EXPECT_EQ(mesh.group(MeshGroup::kDenseShard, 13), (std::vector<int>{12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(mesh.group(MeshGroup::kData, 13).size(), 12);
}

// Of every layout of 1 to 12 ranks: a rank is in its own group, all of a group say the same of it, and groups of one
// kind together are the world.
TEST(Mesh, GroupsOfOneKindDivideTheWorld) {
  for (int pp = 1; pp <= 3; ++pp) {
    for (int ep = 1; ep <= 4; ++ep) {
      for (int shard = 1; shard <= 3; ++shard) {
        for (int replicate = 1; replicate <= 2; ++replicate) {
          const Mesh mesh{.pp = pp, .ep = ep, .dp_shard = shard, .dp_replicate = replicate};
          for (int rank = 0; rank < mesh.world(); ++rank) EXPECT_EQ(mesh.rank_at(mesh.place(rank)), rank);
          for (const MeshGroup group : kGroups) {
            std::set<int> seen;
            for (int rank = 0; rank < mesh.world(); ++rank) {
              const std::vector<int> ranks = mesh.group(group, rank);
              EXPECT_TRUE(std::find(ranks.begin(), ranks.end(), rank) != ranks.end());
              EXPECT_EQ(ranks, mesh.group(group, ranks.front())) << group_name(group) << " of " << mesh.describe();
              seen.insert(ranks.begin(), ranks.end());
            }
            EXPECT_EQ(static_cast<int>(seen.size()), mesh.world());
          }
        }
      }
    }
  }
}

TEST(Mesh, TakesWhatIsLeftForShards) {
  EXPECT_EQ(make_mesh(degrees(2, 2, -1, 1), 8), (Mesh{.pp = 2, .ep = 2, .dp_shard = 2, .dp_replicate = 1}));
  EXPECT_EQ(make_mesh(degrees(1, 1, -1, 1), 1), Mesh{});
  EXPECT_EQ(make_mesh(degrees(1, 1, 2, 2), 4), (Mesh{.pp = 1, .ep = 1, .dp_shard = 2, .dp_replicate = 2}));
  EXPECT_EQ(make_mesh(degrees(16, 32, -1, 1), 2048).dp_shard, 4);
}

TEST(Mesh, AnImpossibleLayoutListsPossibleOnes) {
  expect_usage_error(
      [] { make_mesh(degrees(1, 3, -1, 1), 4); },
      "parallelism: pipeline_parallel_degree = 1 x expert_parallel_degree = 3 x data_parallel_shard_degree "
      "= -1 (what is left) x data_parallel_replicate_degree = 1 is not a layout of the 4 ranks that are "
      "there; layouts that are, in this order: 1 x 1 x 4 x 1; 1 x 2 x 2 x 1; 1 x 4 x 1 x 1; 1 x 1 x 2 x 2; "
      "1 x 1 x 1 x 4; 1 x 2 x 1 x 2");
  expect_usage_error(
      [] { make_mesh(degrees(2, 1, -1, 1), 1); },
      "parallelism: pipeline_parallel_degree = 2 x expert_parallel_degree = 1 x data_parallel_shard_degree "
      "= -1 (what is left) x data_parallel_replicate_degree = 1 is not a layout of the 1 rank that is "
      "there; layouts that are, in this order: 1 x 1 x 1 x 1");
  EXPECT_NE(message_of([] { make_mesh(degrees(1 << 20, 1 << 20, 1 << 20, 1 << 20), 2); }), "no error");
  EXPECT_NE(message_of([] { make_mesh(degrees(1, 1, 3, 1), 2); }), "no error");
}

// 16 experts are not shared out to 3 ranks, and 3 layers are not 6 stages.
TEST(Mesh, LayoutsAreThoseThatTheModelCanHave) {
  ModelConfig model;
  model.num_hidden_layers = 3;
  model.n_routed_experts = 16;
  const std::string listed = message_of([&] { make_mesh(degrees(4, 1, -1, 1), 6, &model); });
  EXPECT_NE(listed.find("layouts that are, in this order: 1 x 1 x 6 x 1; 2 x 1 x 3 x 1; 3 x 1 x 2 x 1; 1 x 1 x 3 x 2; "
                        "1 x 1 x 2 x 3; 1 x 1 x 1 x 6"),
            std::string::npos)
      << listed;
  model.n_routed_experts = 0;
  const std::string dense = message_of([&] { make_mesh(degrees(1, 3, -1, 1), 2, &model); });
  EXPECT_NE(dense.find("in this order: 1 x 1 x 2 x 1; 1 x 1 x 1 x 2; 2 x 1 x 1 x 1"), std::string::npos) << dense;
}

TEST(Mesh, AModelThatCannotBeLaidOutSaysWhichDegreesCould) {
  RunConfig config;
  config.training.local_batch_size = 2;
  config.training.global_batch_size = 12;
  ModelConfig model;
  model.num_hidden_layers = 4;
  model.n_routed_experts = 12;
  check_mesh({.pp = 4, .ep = 3}, config, model);
  expect_usage_error(
      [&] { check_mesh({.ep = 8}, config, model); },
      "parallelism.expert_parallel_degree = 8 does not divide n_routed_experts = 12; use 1, 2, 3, 4, 6, 12");
  expect_usage_error([&] { check_mesh({.pp = 5}, config, model); },
                     "parallelism.pipeline_parallel_degree = 5 with 1 stage a rank is more stages than the model's 4 "
                     "layers; use at most 4");
  expect_usage_error([&] { check_mesh({.dp_shard = 4}, config, model); },
                     "training.global_batch_size = 12 is not a multiple of training.local_batch_size = 2 times the 4 "
                     "ranks that take different sequences; use 8 or 16");
  config.parallelism.pipeline_parallel_schedule = PipelineScheduleName::kInterleaved1F1B;
  EXPECT_EQ(message_of([&] { check_mesh({.pp = 2, .ep = 3}, config, model); }), "no error");
  EXPECT_NE(message_of([&] { check_mesh({.pp = 3, .ep = 2}, config, model); }), "no error");
  model.n_routed_experts = 0;
  expect_usage_error([&] { check_mesh({.ep = 2}, config, model); },
                     "parallelism.expert_parallel_degree = 2 does not divide n_routed_experts = 0; use 1");
}

}  // namespace
}  // namespace deeptitan

// Training over GPUs, one process each, against one GPU: the same comparisons as between threads of the CPU. Every
// process runs all tests, and the reference of each on its own GPU.

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "parallel/every_schedule.h"
#include "support/compare.h"
#include "support/gpu_ranks.h"
#include "support/rank_layout.h"
#include "support/tiny_model.h"
#include "train/layout_run.h"
#include "train/pipeline_run.h"

namespace deeptitan {
namespace {

using namespace testing;  // NOLINT: what the comparisons are made of

using NamedValues = std::map<std::string, std::vector<float>>;

int ranks_here() {
  return gpu_rank().transport().size();
}

// What is not a number here is another rank's: all then have everything.
void put_together(Communicator& host, NamedValues& values) {
  ExecutionContext ctx;
  for (auto& [name, mine] : values) {
    const std::vector<float> here = mine;
    for (int r = 0; r < host.size(); ++r) {
      std::vector<float> theirs = here;
      host.broadcast(ctx, Tensor(theirs.data(), DType::kF32, {std::ssize(theirs)}), r);
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = std::isnan(mine[i]) ? theirs[i] : mine[i];
    }
  }
}

TrainedRanks train_gpus(const Mesh& layout, const GpuMesh& mesh, Choices* choices, RankRun run) {
  TrainedRanks result;
  result.gradients = result.values = empty_tensors(twelve_experts());
  run.device = gpu_rank().device();
  RankGroups groups = mesh.groups();
  if (!run.on_device) groups.expert_memory = nullptr;
  if (!run.in_place) groups.gradient_memory = groups.value_memory = nullptr;
  train_rank(layout, groups, choices, run, true, result);
  put_together(*groups.host, result.gradients);
  put_together(*groups.host, result.values);
  return result;
}

TrainedRanks train_gpus(const Mesh& layout, Choices* choices, RankRun run = {}) {
  if (layout.world() > 1) return train_gpus(layout, GpuMesh(layout), choices, run);
  TrainedRanks result;
  result.gradients = result.values = empty_tensors(twelve_experts());
  run.device = gpu_rank().device();
  train_rank(layout, {}, choices, run, true, result);
  return result;
}

struct Expected {
  Choices choices = empty_choices();
  TrainedRanks run = train_gpus({}, &choices, {.replay = false});
};
Expected& expected() {
  static Expected one_rank;
  return one_rank;
}

// Without experts that are shared out, or with.
std::vector<Mesh> layouts(bool experts) {
  std::vector<Mesh> result;
  for (const Mesh& mesh : meshes_of({ranks_here()})) {
    if ((mesh.ep > 1) == experts) result.push_back(mesh);
  }
  return result;
}

void expect_gradients_and_losses(const std::vector<Mesh>& layouts) {
  for (const Mesh& layout : layouts) {
    for (const RankRun& run : {RankRun{}, RankRun{.zero_stage = 2, .bucket_elements = 640}}) {
      SCOPED_TRACE(fmt::format("{}, ZeRO-{}", layout.describe(), run.zero_stage));
      expect_those_of_one_rank(train_gpus(layout, &expected().choices, run), expected().run);
    }
  }
}

TEST(GpuRanks, DataSplitsHaveTheGradientsAndLossesOfOneRank) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  expect_gradients_and_losses(layouts(/*experts=*/false));
}

TEST(GpuRanks, ExpertSplitsHaveTheGradientsAndLossesOfOneRank) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  expect_gradients_and_losses(layouts(/*experts=*/true));
}

// The mesh is made once: its rows go from kernel to kernel, or over collectives where a run is not `on_device`.
TEST(GpuRanks, RowsFromKernelToKernelHaveTheBitsOfAllToAll) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  for (const Mesh& layout : layouts(/*experts=*/true)) {
    SCOPED_TRACE(layout.describe());
    const GpuMesh mesh(layout, ExpertDispatcherName::kOnDevice);
    RankRun run{.zero_stage = 2, .bucket_elements = 640};
    const TrainedRanks one = train_gpus(layout, mesh, &expected().choices, run);
    run.on_device = true;
    const TrainedRanks other = train_gpus(layout, mesh, &expected().choices, run);
    expect_those_of_one_rank(other, expected().run);
    expect_same_bits(other, one);
    expect_same_bits(train_gpus(layout, mesh, &expected().choices, run), other);
  }
}

TEST(GpuRanks, GradientsAddedUpFromWhereTheyLieHaveTheBitsOfThoseExchanged) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  for (const bool experts : {false, true}) {
    for (const Mesh& layout : layouts(experts)) {
      const GpuMesh mesh(layout);
      for (const int zero_stage : {1, 2}) {
        SCOPED_TRACE(fmt::format("{}, ZeRO-{}", layout.describe(), zero_stage));
        RankRun run{.steps = 5, .zero_stage = zero_stage, .bucket_elements = 640};
        const TrainedRanks exchanged = train_gpus(layout, mesh, &expected().choices, run);
        run.in_place = true;
        const TrainedRanks in_place = train_gpus(layout, mesh, &expected().choices, run);
        expect_same_bits(in_place, exchanged);
        expect_same_bits(train_gpus(layout, mesh, &expected().choices, run), in_place);
      }
    }
  }
}

TEST(GpuRanks, ValuesFetchedInBf16LeaveTheBitsOfThoseExchanged) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  for (const Mesh& layout : {Mesh{.dp_shard = ranks_here()}, Mesh{.ep = ranks_here()}}) {
    const GpuMesh mesh(layout);
    for (const int zero_stage : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, ZeRO-{}", layout.describe(), zero_stage));
      RankRun run{.steps = 4, .zero_stage = zero_stage, .bucket_elements = 640, .compute = DType::kBF16};
      const TrainedRanks exchanged = train_gpus(layout, mesh, &expected().choices, run);
      run.in_place = true;
      expect_same_bits(train_gpus(layout, mesh, &expected().choices, run), exchanged);
    }
  }
}

TEST(GpuRanks, RowsThatOverflowAreRunAgainInSlices) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  for (const Mesh& layout : layouts(/*experts=*/true)) {
    const GpuMesh mesh(layout, ExpertDispatcherName::kOnDevice);
    for (const bool on_device : {false, true}) {
      SCOPED_TRACE(layout.describe() + (on_device ? ", on_device" : ", all_to_all"));
      const RankRun run{.steps = 5, .expert_room = 1.0, .on_device = on_device};
      const TrainedRanks found = train_gpus(layout, mesh, &expected().choices, run);
      EXPECT_EQ(found.overflows[kIdleRankStep - 1], 1);
      expect_those_of_one_rank(found, expected().run);
    }
  }
}

TEST(GpuRanks, RunToRunTheSameBits) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  for (const Mesh& layout : layouts(/*experts=*/false)) {
    SCOPED_TRACE(layout.describe());
    const TrainedRanks first = train_gpus(layout, &expected().choices, {.steps = 5, .zero_stage = 2});
    const TrainedRanks second = train_gpus(layout, &expected().choices, {.steps = 5, .zero_stage = 2});
    EXPECT_EQ(first.losses, second.losses);
    EXPECT_EQ(first.norms, second.norms);
    EXPECT_EQ(first.values, second.values);
    EXPECT_EQ(first.validation, second.validation);
  }
}

// The steps of a split, captured from the second on, and not; with experts on other ranks, over collectives too.
TEST(GpuRanks, GraphsWithExchangesHaveTheBitsOfTheirOps) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  const ModelConfig config = with_layers(tiny_v3(), 4, 1);
  for (const Mesh& layout : {Mesh{.dp_shard = ranks_here()}, Mesh{.ep = ranks_here()}}) {
    const GpuMesh mesh(layout, ExpertDispatcherName::kOnDevice);
    for (const int zero_stage : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, ZeRO-{}", layout.describe(), zero_stage));
      TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(1, 1));
      options.device = gpu_rank().device();
      options.zero_stage = zero_stage;
      options.bucket_elements = 640;
      options.groups = mesh.groups();
      const PipelineRun captured = run_steps(config, options);
      options.graphs = false;
      const PipelineRun by_ops = run_steps(config, options);
      EXPECT_EQ(captured.reports, by_ops.reports);
      EXPECT_EQ(captured.evaluations, by_ops.evaluations);
      EXPECT_TRUE(captured.values == by_ops.values);
      if (layout.ep == 1) continue;
      options.groups.expert_memory = nullptr;
      const PipelineRun collective = run_steps(config, options);
      EXPECT_EQ(captured.reports, collective.reports);
      EXPECT_TRUE(captured.values == collective.values);
    }
  }
}

// Stages of two ranks each, which share out their experts.
TEST(GpuRanks, RowsGoFromKernelToKernelInPipelines) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  if (ranks_here() != 4) GTEST_SKIP() << "is for four ranks";
  const ModelConfig config = with_layers(tiny_v3(), 4, 0);
  const GpuMesh mesh({.pp = 2, .ep = 2}, ExpertDispatcherName::kOnDevice);
  TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(2, kPipelineMicrobatches));
  options.device = gpu_rank().device();
  options.groups = mesh.groups();
  const PipelineRun on_device = run_steps(config, options);
  options.groups.expert_memory = nullptr;
  const PipelineRun collective = run_steps(config, options);
  EXPECT_EQ(on_device.reports, collective.reports);
  EXPECT_EQ(on_device.evaluations, collective.evaluations);
  EXPECT_TRUE(on_device.values == collective.values);
}

TrainingEngineOptions on_gpu(const Schedule& schedule, DType compute) {
  TrainingEngineOptions options = pipeline_options(schedule);
  options.device = gpu_rank().device();
  options.compute = compute;
  return options;
}

TEST(GpuRanks, PipelinesHaveTheBitsOfOneStage) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  const int ranks = ranks_here();
  const ModelConfig config = with_layers(tiny_v3(), 9, 0);  // not evenly divided
  const GpuMesh mesh({.pp = ranks});
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const PipelineRun one = run_steps(config, on_gpu(one_f_one_b_schedule(1, 1), compute));
    for (const Schedule& schedule : every_schedule(ranks, kPipelineMicrobatches)) {
      if (schedule.stages > config.num_hidden_layers) continue;
      SCOPED_TRACE(fmt::format("{} in {}", schedule.name, dtype_name(compute)));
      TrainingEngineOptions options = on_gpu(schedule, compute);
      options.groups = mesh.groups();
      const PipelineRun found = run_steps(config, options);
      EXPECT_EQ(found.reports, one.reports);
      EXPECT_EQ(found.evaluations, one.evaluations);
      EXPECT_EQ(found.logits, one.logits);
      for (const auto& [name, values] : found.values) EXPECT_TRUE(values == one.values.at(name)) << name;
      EXPECT_LT(found.planned_parameters, one.planned_parameters) << "a rank has memory for its own stages alone";
    }
  }
}

// The first stage and the last both add to the embedding's gradient: the sum has another order.
TEST(GpuRanks, PipelinesAddUpASharedTable) {
  DT_SKIP_WITHOUT_GPU_RANKS();
  const GpuMesh mesh({.pp = ranks_here()});
  for (const ModelConfig& config : {with_layers(tiny_v2(), 4, 0), with_layers(tiny_v3(), 4, 1)}) {
    const PipelineRun one = run_steps(config, on_gpu(one_f_one_b_schedule(1, 1), DType::kF32));
    TrainingEngineOptions options = on_gpu(one_f_one_b_schedule(ranks_here(), kPipelineMicrobatches), DType::kF32);
    options.groups = mesh.groups();
    const PipelineRun found = run_steps(config, options);
    for (size_t i = 0; i < one.reports.size(); ++i) {
      EXPECT_NEAR(found.reports[i], one.reports[i], 1e-5 * std::abs(one.reports[i])) << i;
    }
    for (const auto& [name, values] : found.values) {
      EXPECT_LT(relative_error(values, to_double(one.values.at(name))), 1e-4) << name;
    }
  }
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  return deeptitan::testing::run_gpu_ranks(argc, argv);
}

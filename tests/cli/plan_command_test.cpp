// The plan of runs over ranks, on one machine.

#include <filesystem>
#include <regex>

#include <gtest/gtest.h>

#include "cli/program.h"
#include "core/file.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::run_program;

// The bytes of the line that ends in `name`; -1 where there is none.
int64_t bytes_of(const std::string& out, const std::string& name) {
  std::smatch found;
  const std::regex line("(^|\n) *([0-9]+) [^\n]*  " + name + "\n");
  return std::regex_search(out, found, line) ? std::stoll(found[2]) : -1;
}

TEST(PlanCommand, SaysWhatARankTakesAndSends) {
  const Outcome alone = run_program({"plan", "tiny-v3", "--memory", "64GB"});
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(alone.out.find("sent by"), std::string::npos);
  const Outcome sharded = run_program({"plan", "tiny-v3", "--memory", "64GB", "--ranks", "4"});
  ASSERT_EQ(sharded.exit_code, 0) << sharded.err;
  EXPECT_TRUE(sharded.out.starts_with("4 ranks: pp 1 x ep 1 x dp_shard 4 x dp_replicate 1; memory of a rank:\n"))
      << sharded.out;
  EXPECT_NE(sharded.out.find("\nsent by a rank in a step of 1 microbatch a rank, where routing is even:\n"),
            std::string::npos)
      << sharded.out;
  const int64_t optimizer = bytes_of(alone.out, "optimizer");
  EXPECT_NEAR(static_cast<double>(bytes_of(sharded.out, "optimizer")), static_cast<double>(optimizer) / 4, 1e5);
  EXPECT_EQ(bytes_of(sharded.out, "gradients"), bytes_of(alone.out, "gradients"));
  // Every gradient goes out once and every value comes back: two moments' bytes, but for a quarter that stays.
  EXPECT_NEAR(static_cast<double>(bytes_of(sharded.out, "in groups ep x dp_shard of 4 ranks") +
                                  bytes_of(sharded.out, "in groups dp_shard of 4 ranks")),
              0.75 * static_cast<double>(optimizer), 1e5);
  const Outcome experts =
      run_program({"plan", "tiny-v3", "--memory", "64GB", "--ranks", "4", "--parallelism.expert_parallel_degree", "2"});
  ASSERT_EQ(experts.exit_code, 0) << experts.err;
  EXPECT_LT(bytes_of(experts.out, "parameters"), bytes_of(alone.out, "parameters"));
  EXPECT_GT(bytes_of(experts.out, "in groups ep of 2 ranks"), 0) << experts.out;
}

TEST(PlanCommand, DrawsThePipeline) {
  const TemporaryFolder folder;
  const std::string svg = (folder.path() / "pipeline.svg").string();
  const std::vector<std::string> arguments = {"plan",
                                              "tiny-v3",
                                              "--ranks",
                                              "2",
                                              "--parallelism.pipeline_parallel_degree",
                                              "2",
                                              "--training.global_batch_size",
                                              "32",
                                              "--timeline",
                                              svg};
  const Outcome outcome = run_program(arguments);
  EXPECT_TRUE(outcome.out.starts_with("rank 0   0   1   .   .   [0----] 2   [1----] 3   [2----] .   [3----]\n"))
      << outcome.out;
  EXPECT_NE(outcome.out.find("the bubble is 20.0 % of the ranks' time"), std::string::npos) << outcome.out;
  EXPECT_TRUE(read_file(svg).starts_with("<svg "));
  const Outcome none = run_program({"plan", "tiny-v3", "--timeline", svg});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_EQ(none.err,
            "deeptitan: --timeline draws a pipeline, and parallelism.pipeline_parallel_degree = 1 makes none\n");
}

TEST(PlanCommand, PlansForAGpuThatIsNotHere) {
  const std::vector<std::string> arguments = {"plan", "tiny-v3", "--training.device", "cuda:99"};
  const Outcome without = run_program(arguments);
  EXPECT_EQ(without.exit_code, 2);
#ifdef DT_CUDA
  EXPECT_TRUE(without.err.starts_with("deeptitan: training.device = cuda:99: ")) << without.err;
  EXPECT_TRUE(without.err.ends_with("; a plan for one that is not here needs its memory, as in --memory 80GB\n"))
      << without.err;
  std::vector<std::string> with_memory = arguments;
  with_memory.insert(with_memory.end(), {"--memory", "80GB"});
  const Outcome planned = run_program(with_memory);
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
  EXPECT_GT(bytes_of(planned.out, "CUDA context"), 0) << planned.out;
  EXPECT_NE(planned.out.find(": planned for a GPU of compute capability 9.0\n"), std::string::npos) << planned.out;
  with_memory.insert(with_memory.end(), {"--ranks", "2"});
  EXPECT_GT(bytes_of(run_program(with_memory).out, "NCCL, and sums between ranks"), 0);
#else
  EXPECT_TRUE(without.err.starts_with("deeptitan: device = cuda:99: this build of deeptitan has no CUDA"))
      << without.err;
#endif
  EXPECT_EQ(run_program({"plan", "tiny-v3", "--device", "cuda:99"}).err, without.err);
}

TEST(PlanCommand, AnswersForTwoThousandRanksAtOnce) {
  const std::string file = std::string(DT_TEST_DATA_DIR) + "/../configs/deepseek_v3.toml";
  const Outcome outcome = run_program({"plan", "--ranks", "2048", file, "--memory", "100TB"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("2048 ranks: pp 16 x ep 64 x dp_shard 2 x dp_replicate 1; memory of a rank (rank "),
            std::string::npos)
      << outcome.out;
  EXPECT_NE(outcome.out.find("1f1b: 16 ranks, 16 stages, 120 microbatches; the bubble is 11.1 %"), std::string::npos)
      << outcome.out;
  // As many as the run file names where --ranks does not say.
  EXPECT_NE(run_program({"plan", file, "--memory", "100TB"}).out.find("\n1024 ranks: "), std::string::npos);
}

TEST(PlanCommand, ALayoutThatIsNoneListsThoseThatAre) {
  const Outcome outcome =
      run_program({"plan", "tiny-v3", "--ranks", "6", "--parallelism.data_parallel_shard_degree", "4"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find(
                "is not a layout of the 6 ranks that are there; layouts that are, in this order: 1 x 1 x 6 x 1;"),
            std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace deeptitan

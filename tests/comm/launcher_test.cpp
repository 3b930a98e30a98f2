#include "comm/mpi/launcher.h"

#include <map>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

std::string found(const std::map<std::string, std::string>& environment) {
  const std::optional<Launch> launch = find_launch([&](const char* name) {
    const auto at = environment.find(name);
    return at == environment.end() ? nullptr : at->second.c_str();
  });
  return launch ? launch->launcher + " " + std::to_string(launch->rank) + "/" + std::to_string(launch->size) : "none";
}

TEST(Launcher, IsFoundByItsVariables) {
  EXPECT_EQ(found({}), "none");
  EXPECT_EQ(found({{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"PMIX_RANK", "2"}}), "mpirun 2/4");
  EXPECT_EQ(found({{"PMI_RANK", "0"}, {"PMI_SIZE", "3"}}), "mpiexec 0/3");
  EXPECT_EQ(found({{"SLURM_PROCID", "7"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"PMIX_RANK", "7"}}), "srun 7/8");
  // One process, a batch script before its srun, and what nobody wrote.
  EXPECT_EQ(found({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}}), "none");
  EXPECT_EQ(found({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}), "none");
  EXPECT_EQ(found({{"OMPI_COMM_WORLD_RANK", "5"}, {"OMPI_COMM_WORLD_SIZE", "4"}}), "none");
  EXPECT_EQ(found({{"OMPI_COMM_WORLD_RANK", ""}, {"OMPI_COMM_WORLD_SIZE", "4x"}}), "none");
}

}  // namespace
}  // namespace deeptitan

#include <filesystem>

#include <gtest/gtest.h>

#include "config/run_config_toml.h"

namespace deeptitan {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(DT_TEST_DATA_DIR) / ".." / "configs";

TEST(RunFiles, EveryOneLoads) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".toml") continue;
    EXPECT_NO_THROW(load_run_config(entry.path())) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 5);
}

TEST(RunFiles, BenchmarksHaveTheShapesThatPeersWereMeasuredAt) {
  const ModelConfig small = resolve_model_config(load_run_config(kConfigs / "bench_small.toml"));
  EXPECT_EQ(small.hidden_size, 256);
  EXPECT_EQ(small.n_routed_experts, 16);
  EXPECT_EQ(small.kv_lora_rank, 64);
  const ModelConfig wide = resolve_model_config(load_run_config(kConfigs / "bench_wide.toml"));
  EXPECT_EQ(wide.hidden_size, 1024);
  EXPECT_EQ(wide.intermediate_size, 2816);
  EXPECT_EQ(wide.moe_intermediate_size, 512);
  EXPECT_EQ(wide.num_hidden_layers, 4);
  EXPECT_EQ(wide.num_attention_heads, 16);
  EXPECT_EQ(wide.n_routed_experts, 32);
  EXPECT_EQ(wide.num_experts_per_tok, 4);
  EXPECT_EQ(wide.q_lora_rank, 384);
  EXPECT_EQ(wide.kv_lora_rank, 256);
  EXPECT_EQ(wide.qk_head_dim(), 96);
  EXPECT_EQ(load_run_config(kConfigs / "bench_wide.toml").tokens_per_step(), 2048);
}

}  // namespace
}  // namespace deeptitan

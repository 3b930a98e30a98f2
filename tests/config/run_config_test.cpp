#include "config/run_config.h"

#include <gtest/gtest.h>

#include "config/run_config_toml.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

constexpr std::string_view kSmallest = "[model]\nname = \"tiny-v3\"\n[data]\nsynthetic = true\n";

RunConfig smallest() {
  return parse_run_config(kSmallest, "run.toml");
}

TEST(RunConfig, BatchSizesFollowFromTheKeys) {
  RunConfig c = smallest();
  c.training.local_batch_size = 4;
  c.training.global_batch_size = 0;
  c.training.seq_len = 10;
  EXPECT_EQ(c.sequences_per_step(), 4);
  EXPECT_EQ(c.microbatches_per_step(), 1);
  c.training.global_batch_size = 12;
  EXPECT_EQ(c.microbatches_per_step(), 3);
  EXPECT_EQ(c.tokens_per_step(), 120);
}

TEST(RunConfig, SourcesAreCalledAfterTheirPath) {
  TextSource source;
  source.path = "data/bible.txt";
  EXPECT_EQ(source.display_name(), "bible");
  source.path = "data/books/";
  EXPECT_EQ(source.display_name(), "books");
  source.name = std::string("x");
  EXPECT_EQ(source.display_name(), "x");
}

TEST(ValidateRunConfig, EachMisfitHasItsMessage) {
  const auto expect = [](const char* more, const std::string& message) {
    expect_usage_error([&] { parse_run_config(more, "run.toml"); }, message);
  };
  expect("[data]\nsynthetic = true",
         "run.toml: no model; set model.name (one of tiny-v3, tiny-v2, v2-lite, v2, v3, moonlight, kimi-k2, "
         "gigachat3-10b), model.config or "
         "model.initial_checkpoint");
  expect("model = {name = \"v3\", config = \"c.json\"}",
         "run.toml: model.name = 'v3' and model.config = 'c.json' both name a shape; leave one of them");
  expect(
      "model = {name = \"v3\"}\ntraining = {local_batch_size = 8, global_batch_size = 20}\ndata = {synthetic = true}",
      "run.toml: training.global_batch_size = 20 is not a multiple of training.local_batch_size = 8; use 16 or 24");
  expect("model = {name = \"v3\"}\ntraining = {steps = 9223372036854775807}\ndata = {synthetic = true}",
         "run.toml: training.steps = 9223372036854775807 of 2048 tokens each are more than the 1000000000000000 tokens "
         "that a run "
         "may have; lower training.steps");
  expect("model = {name = \"v3\"}\ndata = {synthetic = true, sources = [{path = \"a\"}]}",
         "run.toml: data.synthetic = true leaves no room for data.sources; remove one of them");
  expect("model = {name = \"v3\"}",
         "run.toml: nothing to train on; add a [[data.sources]] table with a path, or set data.synthetic = true");
  expect("model = {name = \"v3\"}\ndata = {sources = [{path = \"a\"}]}",
         "run.toml: text needs a tokenizer; set model.tokenizer to a directory that holds a tokenizer.json");
  expect("model = {name = \"v3\", tokenizer = \"t\"}\ndata = {sources = [{weight = 2}]}",
         "run.toml: a table of data.sources has no path; name its text");
  expect("model = {name = \"v3\", tokenizer = \"t\"}\ndata = {sources = [{path = \"a/x.txt\"}, {path = \"b/x.txt\"}]}",
         "run.toml: two of data.sources are called 'x'; give each a name of its own");
  expect(
      "model = {name = \"v3\", tokenizer = \"t\"}\ndata = {sources = [{path = \"a\", format = \"chat\", text_field = "
      "\"x\"}]}",
      "run.toml: source 'a' has format = \"chat\", which has no text_field; remove it or change format");
  expect("model = {name = \"v3\", tokenizer = \"t\"}\ndata = {sources = [{path = \"a\", messages_field = \"x\"}]}",
         "run.toml: source 'a' has format = \"text\", which has no messages_field; remove it or change format");
}

TEST(ResolveModelConfig, AppliesTheShapeTable) {
  RunConfig c = parse_run_config(std::string(kSmallest) + "[model.shape]\nhidden_size = 512\n", "run.toml");
  EXPECT_EQ(resolve_model_config(c).hidden_size, 512);
  EXPECT_EQ(resolve_model_config(c).num_hidden_layers, 4);
  c.training.seq_len = 4096;
  expect_usage_error([&] { resolve_model_config(c); },
                     "training.seq_len = 4096 is more than the model's max_position_embeddings = 2048; shorten it, or "
                     "raise model.shape.max_position_embeddings");
}

TEST(ConfigDifferences, ListEveryKeyThatChanged) {
  const RunConfig before = smallest();
  RunConfig after = before;
  EXPECT_TRUE(differences(before, after).empty());
  after.training.steps = 2000;
  after.lr_scheduler.decay_type = DecayType::kSqrt;
  after.training.seed = 3;
  const std::vector<ConfigDifference> found = differences(before, after);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].key, "lr_scheduler.decay_type");
  EXPECT_EQ(found[0].before, "\"cosine\"");
  EXPECT_EQ(found[0].after, "\"sqrt\"");
  EXPECT_TRUE(found[0].allowed_on_resume);
  EXPECT_EQ(found[1].key, "training.seed");
  EXPECT_FALSE(found[1].allowed_on_resume);
  EXPECT_EQ(found[2].after, "2000");
}

TEST(CheckResumable, StepsAndLearningRateMayChangeNothingElse) {
  const RunConfig saved = smallest();
  RunConfig current = saved;
  current.training.steps = 2000;
  current.optimizer.lr = 1e-3;
  EXPECT_EQ(check_resumable(saved, current).size(), 2u);
  current.training.seq_len = 128;
  current.model.shape = R"({"hidden_size": 512})";
  expect_usage_error([&] { check_resumable(saved, current); },
                     "cannot resume: model.shape is {} in the checkpoint and {hidden_size = 512} now; training.seq_len "
                     "is 256 in the checkpoint and 128 now. Only the keys that docs/config.md marks with * may "
                     "change; use the saved values, or start a new run in another job.dump_folder");
}

TEST(CheckResumable, WhatMemoryIsTakenForMayChange) {
  const RunConfig saved = smallest();
  RunConfig current = saved;
  current.activation_checkpoint.mode = ActivationCheckpointMode::kCheap;
  current.optimizer.moments_dtype = MomentsDtype::kBf16;
  const std::vector<ConfigDifference> changed = check_resumable(saved, current);
  ASSERT_EQ(changed.size(), 2u);
  EXPECT_EQ(changed[0].key + " " + changed[0].after, "optimizer.moments_dtype \"bf16\"");
  EXPECT_EQ(changed[1].key + " " + changed[1].after, "activation_checkpoint.mode \"cheap\"");
}

TEST(CheckResumable, AMicrobatchMayChangeWhereTheStepStays) {
  RunConfig saved = smallest();
  saved.training.local_batch_size = 4;
  saved.training.global_batch_size = 8;
  RunConfig current = saved;
  current.training.local_batch_size = 2;
  EXPECT_EQ(check_resumable(saved, current).size(), 1u);
  saved.training.global_batch_size = current.training.global_batch_size = 0;
  EXPECT_EQ(message_of([&] { check_resumable(saved, current); }).substr(0, 81),
            "cannot resume: training.local_batch_size is 4 in the checkpoint and 2 now. Only t");
  // Two ranks of one microbatch each were a step of 8.
  saved.training.global_batch_size = 8;
  current.training.local_batch_size = 8;
  EXPECT_EQ(check_resumable(saved, current).size(), 2u);
}

}  // namespace
}  // namespace deeptitan

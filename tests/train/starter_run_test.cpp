#include "train/starter_run.h"

#include <gtest/gtest.h>

#include "config/model_config_json.h"
#include "config/run_config_toml.h"

namespace deeptitan {
namespace {

StarterFacts facts() {
  StarterFacts found;
  found.data = "text.txt";
  found.data_tokens = 500000;
  found.folder = "runs/first";
  found.shape_name = "tiny-v3";
  found.shape = named_model_config("tiny-v3");
  found.tokenizer = "tokenizer";
  found.vocab_size = 1024;
  found.shape.vocab_size = 1024;
  found.memory = int64_t{8} << 30;
  found.machine = "3 cores";
  return found;
}

TEST(StarterRun, NamesTheDeviceThatItIsMadeFor) {
  StarterFacts with = facts();
  const std::string without = starter_run_file(with);
  EXPECT_EQ(without.find("device ="), std::string::npos);
  EXPECT_TRUE(without.starts_with("# A new model on texts. Made for 3 cores and 8.6 GB of memory;")) << without;
  with.device = "cpu";  // as it would be "cuda", which a build without CUDA refuses
  with.machine = "a chip";
  const std::string text = starter_run_file(with);
  EXPECT_EQ(parse_run_config(text, "made").training.device, "cpu");
  EXPECT_NE(text.find("Made for a chip and 8.6 GB of memory"), std::string::npos) << text;
}

TEST(StarterRun, TakesLessAtOnceWhereMemoryIsShort) {
  StarterFacts with = facts();
  with.device = "cpu";  // a GPU's context alone is more than what is short here
  const RunConfig roomy = parse_run_config(starter_run_file(with), "made");
  with.memory = 150'000'000;
  const RunConfig narrow = parse_run_config(starter_run_file(with), "made");
  EXPECT_LT(narrow.training.local_batch_size, roomy.training.local_batch_size);
  EXPECT_EQ(narrow.training.global_batch_size, roomy.training.global_batch_size);
}

}  // namespace
}  // namespace deeptitan

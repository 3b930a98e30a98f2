#include "config/nearest_name.h"

#include <vector>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(EditDistance, CountsEachKindOfSlipOnce) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("steps", "steps"), 0u);
  EXPECT_EQ(edit_distance("step", "steps"), 1u);
  EXPECT_EQ(edit_distance("stepps", "steps"), 1u);
  EXPECT_EQ(edit_distance("staps", "steps"), 1u);
  EXPECT_EQ(edit_distance("setps", "steps"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(NearestName, IsEmptyWhereNothingIsNear) {
  const std::vector<std::string> names = {"training.steps", "training.seed", "optimizer.lr"};
  EXPECT_EQ(nearest_name("trainig.steps", names), "training.steps");
  EXPECT_EQ(nearest_name("qqqq", names), "");
  EXPECT_EQ(nearest_name("qqqq", {}), "");
  EXPECT_EQ(did_you_mean("optimiser.lr", names), "; did you mean 'optimizer.lr'?");
  EXPECT_EQ(did_you_mean("qqqq", names), "");
  EXPECT_EQ(nearest_name("prefix", std::vector<std::string>{"text", "prefix_token"}), "prefix_token");
  // Words that share some letters are other words.
  const std::vector<std::string> other = {"--help", "optimizer.eps", "eps", "lr"};
  for (const char* word : {"--lr", "epochs", "lora", "v4"}) EXPECT_EQ(nearest_name(word, other), "") << word;
}

}  // namespace
}  // namespace deeptitan

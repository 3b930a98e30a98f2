#include "hub/cached_model.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "core/file.h"
#include "hub/hub_settings.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

/// A cache as HF_HUB_CACHE names it, for the time of a test.
class CachedModel : public testing::Test {
 protected:
  CachedModel() { ::setenv("HF_HUB_CACHE", cache_.path().c_str(), 1); }
  ~CachedModel() override { ::unsetenv("HF_HUB_CACHE"); }

  fs::path add(const std::string& repository, const std::string& commit) {
    const fs::path snapshot = cache_.path() / repository / "snapshots" / commit;
    fs::create_directories(snapshot);
    write_file(snapshot / "config.json", "{}");
    return snapshot;
  }

  TemporaryFolder cache_;
};

TEST_F(CachedModel, IsFoundByItsNameAndByItsShortName) {
  const fs::path old = add("models--deepseek-ai--DeepSeek-V2-Lite-Chat", "aaaa");
  EXPECT_EQ(model_directory_of("v2-lite-chat"), old);  // the only one
  const fs::path fresh = add("models--deepseek-ai--DeepSeek-V2-Lite-Chat", "bbbb");
  const fs::path refs = fresh.parent_path().parent_path() / "refs";
  fs::create_directories(refs);
  write_file(refs / "main", "bbbb");
  EXPECT_EQ(model_directory_of("v2-lite-chat"), fresh);
  EXPECT_EQ(model_directory_of("deepseek-ai/DeepSeek-V2-Lite-Chat"), fresh);
  write_file(refs / "main", "../../../../etc");
  expect_usage_error([] { model_directory_of("v2-lite-chat"); },
                     "the model deepseek-ai/DeepSeek-V2-Lite-Chat is not in the cache " + cache_.path().string() +
                         "; fetch it with: deeptitan download v2-lite-chat");
}

TEST_F(CachedModel, PathsAreThemselves) {
  EXPECT_EQ(model_directory_of(cache_.path().string()), cache_.path());
  expect_usage_error([] { model_directory_of("models/mine"); },
                     "there is no directory models/mine, and the model models/mine is not in the cache " +
                         cache_.path().string() + "; fetch it with: deeptitan download models/mine");
}

TEST_F(CachedModel, WhatNamesNoneIsSaidWithTheNamesThatAreNear) {
  const std::string expected =
      " (expected a model's directory, OWNER/NAME on the hub, or one of: v2-lite-chat, v2-lite, v2, v3, v3-0324, "
      "moonlight, moonlight-chat, kimi-k2, gigachat3-10b)";
  const auto says = [](const std::string& model, const std::string& message) {
    expect_usage_error([&] { model_directory_of(model); }, message);
  };
  says("/no/such", "there is no directory /no/such" + expected);
  says("no-such", "there is no directory no-such" + expected);
  says("", "there is no directory of an empty name" + expected);
  says("V2-lite", "there is no directory V2-lite; did you mean 'v2-lite'?" + expected);
  fs::create_directories(cache_.path() / "trained");
  const std::string trained = (cache_.path() / "trained").string();
  says(trained + "d", "there is no directory " + trained + "d; did you mean '" + trained + "'?" + expected);
  const std::string other = (cache_.path() / "another").string();
  says(other, "there is no directory " + other + expected);
  says("tiny-v3",
       "tiny-v3 is a shape without weights; train it (model.name in a run file), and give the directory of the run's "
       "model");
  const std::string absent = " is not in the cache " + cache_.path().string() + "; fetch it with: deeptitan download ";
  const std::string slip = "deepseek-ai/DeepSeek-V2-Lit";
  says(slip, "there is no directory " + slip + ", and the model " + slip + absent + slip +
                 "; did you mean 'deepseek-ai/DeepSeek-V2-Lite'?");
  const std::string known = "deepseek-ai/DeepSeek-V2-Lite";
  says(known, "there is no directory " + known + ", and the model " + known + absent + known);
}

TEST(KnownModels, ADirectoryIsKnownByTheNameOfItsRepository) {
  EXPECT_EQ(short_name_of_directory("models/DeepSeek-V2-Lite"), "v2-lite");
  EXPECT_EQ(short_name_of_directory("models/DeepSeek-V2-Lite/"), "v2-lite");
  EXPECT_EQ(short_name_of_directory("Moonlight-16B-A3B-Instruct"), "moonlight-chat");
  EXPECT_EQ(short_name_of_directory("models/mine"), "");
}

}  // namespace
}  // namespace deeptitan

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
  EXPECT_EQ(model_directory_of("/no/such"), "/no/such");
  EXPECT_EQ(model_directory_of("no-such"), "no-such");
  expect_usage_error([] { model_directory_of("models/mine"); },
                     "there is no directory models/mine, and the model models/mine is not in the cache " +
                         cache_.path().string() + "; fetch it with: deeptitan download models/mine");
}

TEST(KnownModels, ADirectoryIsKnownByTheNameOfItsRepository) {
  EXPECT_EQ(short_name_of_directory("models/DeepSeek-V2-Lite"), "v2-lite");
  EXPECT_EQ(short_name_of_directory("models/DeepSeek-V2-Lite/"), "v2-lite");
  EXPECT_EQ(short_name_of_directory("Moonlight-16B-A3B-Instruct"), "moonlight-chat");
  EXPECT_EQ(short_name_of_directory("models/mine"), "");
}

}  // namespace
}  // namespace deeptitan

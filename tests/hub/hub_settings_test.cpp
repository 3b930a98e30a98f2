#include "hub/hub_settings.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "hub/blob_hash.h"
#include "hub/repository_listing.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

class HubSettingsTest : public testing::Test {
 protected:
  HubSettingsTest() {
    for (const char* name : {"HF_ENDPOINT", "HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"}) ::unsetenv(name);
    ::setenv("HOME", home_.path().c_str(), 1);
  }
  TemporaryFolder home_;
};

TEST_F(HubSettingsTest, DefaultsAreThoseOfThePythonTools) {
  const HubSettings settings = HubSettings::from_environment();
  EXPECT_EQ(settings.endpoint, "https://huggingface.co");
  EXPECT_EQ(settings.token, "");
  EXPECT_EQ(settings.cache_directory, home_ / ".cache/huggingface/hub");
  ::setenv("XDG_CACHE_HOME", "/xdg", 1);
  EXPECT_EQ(HubSettings::from_environment().cache_directory, "/xdg/huggingface/hub");
}

TEST_F(HubSettingsTest, TheEnvironmentDecides) {
  ::setenv("HF_ENDPOINT", "https://mirror.example/", 1);
  ::setenv("HF_HOME", home_.path().c_str(), 1);
  write_file(home_ / "token", " from-file\n");
  EXPECT_EQ(HubSettings::from_environment().endpoint, "https://mirror.example");
  EXPECT_EQ(HubSettings::from_environment().cache_directory, home_ / "hub");
  EXPECT_EQ(HubSettings::from_environment().token, "from-file");
  ::setenv("HF_TOKEN", "from-environment", 1);
  ::setenv("HF_HUB_CACHE", "/cache", 1);
  EXPECT_EQ(HubSettings::from_environment().token, "from-environment");
  EXPECT_EQ(HubSettings::from_environment().cache_directory, "/cache");
  ::setenv("HF_ENDPOINT", "mirror.example", 1);
  EXPECT_EQ(message_of([] { HubSettings::from_environment(); }),
            "HF_ENDPOINT must begin with https:// or http://, found mirror.example");
}

TEST(RepositoryOf, ShortNamesAndFullNames) {
  EXPECT_EQ(repository_of("v2-lite-chat"), "deepseek-ai/DeepSeek-V2-Lite-Chat");
  EXPECT_EQ(repository_of("v3-0324"), "deepseek-ai/DeepSeek-V3-0324");
  EXPECT_EQ(repository_of("moonshotai/Moonlight-16B-A3B"), "moonshotai/Moonlight-16B-A3B");
  for (const std::string address :
       {"https://huggingface.co/moonshotai/Moonlight-16B-A3B", "https://hf.co/moonshotai/Moonlight-16B-A3B/",
        "huggingface.co/moonshotai/Moonlight-16B-A3B/tree/main"}) {
    EXPECT_EQ(repository_of(address), "moonshotai/Moonlight-16B-A3B") << address;
  }
  EXPECT_EQ(message_of([] { repository_of("v4"); }),
            "unknown model 'v4' (models: v2-lite-chat, v2-lite, v2, v3, v3-0324, moonlight, moonlight-chat, kimi-k2, "
            "gigachat3-10b; or OWNER/NAME on "
            "the hub)");
  for (const char* name :
       {"", "/", "a/", "/a", "a/b/c", "../b", "a/..", "a/b..c", "a/b--c", "a/.b", "a b/c", "a/b?x"}) {
    EXPECT_TRUE(message_of([&] { repository_of(name); }).starts_with("unknown model '")) << name;
  }
}

TEST(BlobHash, AgreesWithSha256sumAndGitHashObject) {
  BlobHash sha256(std::string(64, '0'), 3);
  sha256.update("ab", 2);
  sha256.update("c", 1);
  EXPECT_EQ(sha256.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  BlobHash git(std::string(40, '0'), 6);
  git.update("hello\n", 6);
  EXPECT_EQ(git.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_FALSE(BlobHash::is_hash("../" + std::string(37, 'a')));
  EXPECT_FALSE(BlobHash::is_hash(std::string(40, 'A')));
}

TEST(IsSafePath, OnlyWhatStaysInside) {
  for (const char* path : {"a", "a/b/c.txt", "..a", "a..", "...", "\xe4\xbd\xa0"})
    EXPECT_TRUE(is_safe_path(path)) << path;
  for (const char* path : {"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a\\b", "a\nb", "a\x7f"}) {
    EXPECT_FALSE(is_safe_path(path)) << path;
  }
}

}  // namespace
}  // namespace deeptitan

#include "data/token_cache.h"

#include <thread>

#include <gtest/gtest.h>

#include "core/file.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

TEST(KnownHash, IsRememberedUntilAFileChanges) {
  const TemporaryFolder folder;
  const std::vector<fs::path> files = {folder.write("a.txt", "hello"), folder.write("b.txt", "there")};
  const fs::path cache = folder / "cache";
  fs::create_directory(cache);
  const std::string hash(32, 'c');
  const auto known = [&](const char* options = "") {
    ContentHash hashed;
    hashed.add(options);
    return KnownHash(cache, files, hashed);
  };
  known().remember(hash);
  EXPECT_FALSE(known().value()) << "a file that was just written could change once more within its time stamp";
  std::this_thread::sleep_for(std::chrono::milliseconds(3100));
  EXPECT_FALSE(known().value());
  known().remember(hash);
  EXPECT_EQ(known().value(), hash);
  EXPECT_FALSE(known("other").value());
  // A note that was altered is not believed.
  const fs::path note = fs::directory_iterator(cache)->path();
  std::string text = read_file(note);
  text[3] = 'd';
  write_file(note, text);
  EXPECT_FALSE(known().value());
  text[3] = 'c';
  write_file(note, text);
  EXPECT_EQ(known().value(), hash);
  // The same length, and the time set back: the time of the change is not.
  const auto time = fs::last_write_time(files[0]);
  folder.write("a.txt", "hellp");
  fs::last_write_time(files[0], time);
  EXPECT_FALSE(known().value());
}

}  // namespace
}  // namespace deeptitan

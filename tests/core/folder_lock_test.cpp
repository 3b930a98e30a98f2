#include "core/folder_lock.h"

#include <csignal>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

TEST(FolderLock, HoldsUntilItsProcessEndsAndNamesIt) {
  const TemporaryFolder folder;
  const auto path = folder / "run.lock";
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock held(path, "the folder");
    if (::write(ready[1], "x", 1) == 1) ::pause();
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const std::string message = message_of([&] { FolderLock second(path, "the folder"); });
  EXPECT_TRUE(message.starts_with("the folder is in use by process " + std::to_string(child) + " on ")) << message;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::exists(path));
  {
    const FolderLock next(path, "the folder");
    EXPECT_TRUE(next.in_place());
    EXPECT_NE(message_of([&] { FolderLock third(path, "the folder"); }), "no error");
    std::filesystem::remove(path);
    EXPECT_FALSE(next.in_place());
  }
  { const FolderLock again(path, "the folder"); }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace deeptitan

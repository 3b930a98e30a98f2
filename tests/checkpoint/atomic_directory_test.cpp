#include "checkpoint/atomic_directory.h"

#include <csignal>
#include <set>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors_writer.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

void write_pair(const fs::path& directory, const std::string& text) {
  write_file(directory / "first", text);
  fs::create_directory(directory / "below");
  write_file(directory / "below" / "second", text);
  write_manifest(directory, 0);
}

/// The text that both files hold; fails the test if the directory is a mixture.
std::string read_pair(const fs::path& directory) {
  const std::string first = read_file(directory / "first");
  EXPECT_EQ(read_file(directory / "below" / "second"), first);
  return first;
}

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

/// Runs `action` in a child process and returns how it ended, as waitpid says it.
int status_of_child(const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(AtomicDirectory, AppearsWithCommitAndVanishesWithout) {
  const TemporaryFolder parent;
  const fs::path target = parent / "new" / "model";
  {
    AtomicDirectory directory(target);
    write_pair(directory.path(), "one");
    EXPECT_FALSE(fs::exists(target));
  }
  EXPECT_TRUE(names_in(parent / "new").empty());
  {
    AtomicDirectory directory(target);
    write_pair(directory.path(), "one");
    directory.commit();
  }
  EXPECT_EQ(read_pair(target), "one");
  {
    AtomicDirectory directory(target);
    write_pair(directory.path(), "lost");
  }
  EXPECT_EQ(read_pair(target), "one");
  EXPECT_EQ(names_in(parent / "new"), std::set<std::string>{"model"});
}

TEST(AtomicDirectory, ReplacesWithAndWithoutExchange) {
  const TemporaryFolder parent;
  const fs::path target = parent / "model";
  for (const bool exchange : {true, false, true, false}) {
    const std::string text = exchange ? "exchanged" : "renamed";
    AtomicDirectory directory(target / "", {.exchange = exchange, .after_step = {}});
    write_pair(directory.path(), text);
    directory.commit();
    EXPECT_EQ(read_pair(target), text);
    EXPECT_EQ(names_in(parent.path()), std::set<std::string>{"model"});
  }
}

TEST(AtomicDirectory, RefusesAFileInItsPlace) {
  const TemporaryFolder parent;
  write_file(parent / "model", "a file");
  EXPECT_EQ(message_of([&] { AtomicDirectory directory(parent / "model"); }),
            (parent / "model").string() + " is a file, expected a directory or nothing");
}

TEST(AtomicDirectory, ReplacesAndRemovesOnlyWhatItsManifestLists) {
  const TemporaryFolder parent;
  const fs::path target = parent / "model";
  fs::create_directory(target);
  write_pair(target, "old");
  const auto refused = [&](const fs::path& foreign) {
    const std::string message =
        foreign.string() + " would be removed, and deeptitan did not write it, or it was changed since; move it away";
    EXPECT_EQ(message_of([&] { remove_directory(target); }), message);
    EXPECT_EQ(message_of([&] { AtomicDirectory directory(target); }), message);
    EXPECT_EQ(names_in(parent.path()), std::set<std::string>{"model"});
  };
  for (const char* name : {"precious", "below/precious"}) {
    write_file(target / name, "mine");
    refused(target / name);
    fs::remove(target / name);
  }
  write_file(target / "first", "new");  // as long as the old one
  refused(target / "first");
  write_file(target / "first", "old");
  fs::create_symlink("/", target / "link");
  refused(target / "link");
  fs::remove(target / "link");
  {
    AtomicDirectory directory(target);  // a file that comes while the new one is written
    write_pair(directory.path(), "new");
    write_file(target / "precious", "mine");
    EXPECT_NE(message_of([&] { directory.commit(); }).find("precious would be removed"), std::string::npos);
  }
  EXPECT_EQ(read_pair(target), "old");
  EXPECT_EQ(set_aside(target), parent / "set-aside-1-model");
  EXPECT_EQ(read_file(parent / "set-aside-1-model/precious"), "mine");
}

TEST(AtomicDirectory, AFolderThatCannotBeOpenedIsAnError) {
  const TemporaryFolder parent;
  const fs::path report = parent / "report";
  const int status = status_of_child([&] {
    const int free_descriptor = ::open("/", O_RDONLY);
    ::close(free_descriptor);
    write_file(report, "");
    const File kept = File::open(report);
    const rlimit limit = {static_cast<rlim_t>(free_descriptor) + 1, static_cast<rlim_t>(free_descriptor) + 1};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::alarm(20);
    const std::string message = message_of([&] { AtomicDirectory directory(parent / "model"); });
    const ssize_t ignored = ::write(1, message.data(), 0);
    ::_exit(ignored == 0 && message.find("Too many open files") != std::string::npos ? 0 : 3);
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(names_in(parent.path()), std::set<std::string>{"report"});
}

TEST(AtomicDirectory, KilledAtAnyStepLeavesTheOldOrTheNewOne) {
  const std::vector<CommitStep> steps = {CommitStep::kSynced, CommitStep::kMovedAside, CommitStep::kInPlace};
  for (const bool exists : {false, true}) {
    for (const bool exchange : {false, true}) {
      for (const CommitStep last : steps) {
        if (last == CommitStep::kMovedAside && (exchange || !exists)) continue;
        const TemporaryFolder parent;
        const fs::path target = parent / "model";
        if (exists) {
          fs::create_directory(target);
          write_pair(target, "old");
        }
        const int status = status_of_child([&] {
          AtomicDirectory directory(target, {.exchange = exchange, .after_step = [&](CommitStep step) {
                                               if (step == last) ::raise(SIGKILL);
                                             }});
          write_pair(directory.path(), "new");
          directory.commit();
        });
        ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        recover_directories(parent.path());
        if (last == CommitStep::kInPlace) {
          EXPECT_EQ(read_pair(target), "new");
        } else if (exists) {
          EXPECT_EQ(read_pair(target), "old");
        } else {
          EXPECT_FALSE(fs::exists(target));
        }
        EXPECT_EQ(names_in(parent.path()).size(), fs::exists(target) ? 1u : 0u);
      }
    }
  }
}

TEST(AtomicDirectory, KilledWhileWritingLeavesTheOldOne) {
  const TemporaryFolder parent;
  const fs::path target = parent / "model";
  fs::create_directory(target);
  write_pair(target, "old");
  const int status = status_of_child([&] {
    AtomicDirectory directory(target);
    SafetensorsWriter writer(directory.path() / "model.safetensors", {{"a", DType::kU8, {100}}});
    writer.write("a", "half", 4);
    ::raise(SIGKILL);
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(names_in(parent.path()).size(), 2u);
  EXPECT_EQ(read_pair(target), "old");
  AtomicDirectory next(parent / "other");  // tidies up for everybody in its parent
  EXPECT_EQ(names_in(parent.path()).size(), 2u);
  EXPECT_TRUE(fs::exists(next.path()));
}

TEST(RecoverDirectories, LeavesTheLivingAndStrangersAlone) {
  const TemporaryFolder parent;
  fs::create_directory(parent / ".model.incomplete-notes");
  fs::create_directory(parent / "model.incomplete-1-2");
  write_file(parent / ".model.incomplete-7-7", "a file");
  AtomicDirectory living(parent / "model");
  write_pair(living.path(), "new");
  const int status = status_of_child([&] { recover_directories(parent.path()); });
  EXPECT_EQ(status, 0);
  recover_directories(parent.path());
  EXPECT_TRUE(fs::exists(parent / ".model.incomplete-notes"));
  EXPECT_TRUE(fs::exists(parent / "model.incomplete-1-2"));
  living.commit();
  EXPECT_EQ(read_pair(parent / "model"), "new");
  recover_directories(parent / "missing");
}

TEST(RemoveDirectory, LeavesNothing) {
  const TemporaryFolder parent;
  fs::create_directory(parent / "model");
  write_pair(parent / "model", "old");
  remove_directory(parent / "model");
  EXPECT_TRUE(names_in(parent.path()).empty());
  EXPECT_EQ(message_of([&] { remove_directory(parent / "model"); }).rfind("cannot rename ", 0), 0u);
}

TEST(AtomicDirectory, AFullDiskLeavesTheOldOneAndSaysSo) {
  const TemporaryFolder parent;
  const fs::path target = parent / "model";
  fs::create_directory(target);
  write_pair(target, "old");
  const fs::path report = parent / "report";
  const int status = status_of_child([&] {
    const std::string message = message_of([&] {
      AtomicDirectory directory(target);
      const rlimit limit = {1 << 16, 1 << 16};  // the kernel refuses to write further, as a full disk does
      ::signal(SIGXFSZ, SIG_IGN);
      ::setrlimit(RLIMIT_FSIZE, &limit);
      SafetensorsWriter writer(directory.path() / "model.safetensors", {{"a", DType::kU8, {1 << 20}}});
      const std::string bytes(1 << 20, 'x');
      writer.write("a", bytes.data(), bytes.size());
      writer.finish();
      directory.commit();
    });
    write_file(report, message);
  });
  EXPECT_EQ(status, 0);
  const std::string message = read_file(report);
  EXPECT_NE(message.find("/model.safetensors: File too large: "), std::string::npos) << message;
  EXPECT_NE(message.find("(ulimit -f)"), std::string::npos) << message;
  EXPECT_EQ(read_pair(target), "old");
  EXPECT_EQ(names_in(parent.path()), (std::set<std::string>{"model", "report"}));
}

}  // namespace
}  // namespace deeptitan

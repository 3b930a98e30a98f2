#include "core/file.h"

#include <cerrno>
#include <csignal>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace deeptitan {
namespace {

std::filesystem::path fresh_path(const std::string& name) {
  const auto path =
      std::filesystem::temp_directory_path() / ("deeptitan_file_test_" + std::to_string(getpid()) + "_" + name);
  std::filesystem::remove_all(path);
  return path;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(File, WritesAndReadsAtOffsets) {
  const auto path = fresh_path("offsets");
  {
    File file = File::create(path);
    file.reserve(100);
    file.write_at("world", 5, 5);
    file.write_at("hello", 5, 0);
    EXPECT_EQ(file.size(), 10u);
    file.sync();
  }
  EXPECT_EQ(read_file(path), "helloworld");
  {
    File file = File::open_or_create(path);
    file.resize(7);
  }
  EXPECT_EQ(read_file(path), "hellowo");
  char rest[4];
  EXPECT_EQ(message_of([&] { File::open(path).read_at(rest, 4, 5); }),
            path.string() + " ends at byte 7, 2 bytes before what was to be read");
  std::filesystem::remove(path);
}

TEST(WriteFile, ReplacesWholeOrNotAtAll) {
  const auto folder = fresh_path("replaced");
  std::filesystem::create_directory(folder);
  const auto path = folder / "config.toml";
  write_file(path, "old");
  std::filesystem::permissions(path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  std::filesystem::create_symlink("config.toml", folder / "link");
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};  // the kernel refuses to write further, as a full disk does
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string message = message_of([&] { write_file(path, std::string(5000, 'n')); });
    ::_exit(message.starts_with("cannot write " + path.string() + ": File too large") ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(path), "old");
  write_file(folder / "link", "new");
  EXPECT_EQ(read_file(path), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const std::filesystem::directory_iterator entries(folder);
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 2) << "nothing beside it is left";
  write_file("/dev/null", "what is no file is written to as it is");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_EQ(message_of([&] { write_file(folder, "x"); }), "cannot write " + folder.string() + ": Is a directory");
  std::filesystem::remove_all(folder);
}

TEST(File, ErrorsNameTheFileAndTheReason) {
  const auto path = fresh_path("missing");
  EXPECT_EQ(message_of([&] { File::open(path); }), "cannot open " + path.string() + ": No such file or directory");
  std::filesystem::create_directory(path);
  EXPECT_EQ(message_of([&] { read_file(path); }), "cannot open " + path.string() + ": Is a directory");
  EXPECT_EQ(message_of([&] { write_file(path / "no" / "way", "x"); }),
            "cannot create " + (path / "no" / "way").string() + ": No such file or directory");
  const std::string full = message_of([&] { fail_file("write", path / "x", ENOSPC); });
  EXPECT_EQ(full.rfind("cannot write " + (path / "x").string() + ": No space left on device", 0), 0u) << full;
  EXPECT_NE(full.find(" free"), std::string::npos) << full;
  EXPECT_TRUE(full.ends_with("choose a directory on another disk")) << full;
  std::filesystem::remove_all(path);
}

TEST(FormatBytes, DecimalUnits) {
  EXPECT_EQ(format_bytes(0), "0 bytes");
  EXPECT_EQ(format_bytes(999), "999 bytes");
  EXPECT_EQ(format_bytes(1000), "1.0 kB");
  EXPECT_EQ(format_bytes(999'949), "999.9 kB");
  EXPECT_EQ(format_bytes(999'950), "1.0 MB");
  EXPECT_EQ(format_bytes(31'412'345'678), "31.4 GB");
}

// Reading them would not end, or would wait for a writer that may never come.
TEST(File, RefusesPipesAndDevicesAtOnce) {
  const auto pipe = fresh_path("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(message_of([&] { read_file(pipe); }),
            "cannot read " + pipe.string() + ": it is a pipe, expected a regular file");
  EXPECT_EQ(message_of([&] { File::open("/dev/zero"); }),
            "cannot read /dev/zero: it is a device, expected a regular file");
  EXPECT_EQ(message_of([&] { read_file_or_pipe("/dev/zero"); }),
            "cannot read /dev/zero: it is a device, expected a regular file");
  EXPECT_EQ(message_of([&] { read_file_or_pipe(pipe); }),
            "cannot read " + pipe.string() + ": it is a pipe that nobody writes into");
  std::thread writer([&] { std::ofstream(pipe) << "written"; });
  std::string text;
  while (text.empty()) {
    const std::string problem = message_of([&] { text = read_file_or_pipe(pipe); });
    if (problem != "no error") std::this_thread::yield();
  }
  writer.join();
  EXPECT_EQ(text, "written");
  std::filesystem::remove(pipe);
}

}  // namespace
}  // namespace deeptitan

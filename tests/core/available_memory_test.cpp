#include "core/available_memory.h"

#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;

// A machine with 1024 MiB available.
class AvailableMemory : public ::testing::Test {
 protected:
  AvailableMemory() { write("proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 1048576 kB\n"); }

  void write(const std::string& name, const std::string& text) const { folder_.write(name, text); }
  void mount(const std::string& line) { write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda rw\n" + line); }
  static std::string mebibytes(int64_t count) { return std::to_string(count * kMebibyte) + "\n"; }
  int64_t available() const { return available_host_memory(folder_.path()) / kMebibyte; }

  const TemporaryFolder folder_;
};

TEST_F(AvailableMemory, WithoutGroupsIsWhatTheSystemCanGive) {
  EXPECT_EQ(available(), 1024);
  const TemporaryFolder empty;
  EXPECT_EQ(available_host_memory(empty.path()), std::numeric_limits<int64_t>::max());
  EXPECT_GT(available_host_memory(), 0);
}

TEST_F(AvailableMemory, AGroupOfVersionTwoLimits) {
  mount("30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
  write("proc/self/cgroup", "0::/user/job\n");
  write("sys/fs/cgroup/user/job/memory.max", "max\n");
  EXPECT_EQ(available(), 1024);
  write("sys/fs/cgroup/user/job/memory.max", mebibytes(300));
  EXPECT_EQ(available(), 300);
  write("sys/fs/cgroup/user/job/memory.current", mebibytes(200));
  EXPECT_EQ(available(), 100);
  write("sys/fs/cgroup/user/job/memory.stat",
        "anon 1\nfile 9\ninactive_file " + mebibytes(100) + "active_file " + mebibytes(60));
  EXPECT_EQ(available(), 260);
  write("sys/fs/cgroup/user/job/memory.high", mebibytes(250));
  EXPECT_EQ(available(), 210);
  write("sys/fs/cgroup/user/job/memory.current", mebibytes(900));
  EXPECT_EQ(available(), 0);
}

TEST_F(AvailableMemory, AGroupAboveLimitsToo) {
  mount("30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  write("proc/self/cgroup", "0::/a/b/c\n");
  write("sys/fs/cgroup/a/b/c/memory.max", mebibytes(500));
  write("sys/fs/cgroup/a/memory.max", mebibytes(400));
  write("sys/fs/cgroup/a/memory.current", mebibytes(10));
  EXPECT_EQ(available(), 390);
  // In a container of its own namespace, its group is the root of what it sees.
  write("sys/fs/cgroup/memory.max", mebibytes(200));
  EXPECT_EQ(available(), 200);
  write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(available(), 200);
}

TEST_F(AvailableMemory, AGroupOfVersionOneLimits) {
  mount(
      "30 22 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
      "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "32 22 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  write("proc/self/cgroup", "9:cpu:/x\n4:memory:/jobs/one\n0::/x\n");
  write("sys/fs/cgroup/cpu/x/memory.limit_in_bytes", mebibytes(1));
  write("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(available(), 1024);
  write("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", mebibytes(600));
  write("sys/fs/cgroup/memory/jobs/one/memory.usage_in_bytes", mebibytes(100));
  EXPECT_EQ(available(), 500);
  write("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", mebibytes(450));
  EXPECT_EQ(available(), 450);
  write("sys/fs/cgroup/memory/jobs/one/memory.stat",
        "cache 5\nhierarchical_memory_limit " + mebibytes(350) + "total_inactive_file " + mebibytes(30));
  EXPECT_EQ(available(), 280);
}

TEST_F(AvailableMemory, AContainerThatSeesAPartOfTheHierarchyFindsItsGroup) {
  mount("31 22 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  write("proc/self/cgroup", "4:memory:/docker/abc\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", mebibytes(128));
  EXPECT_EQ(available(), 128);
  write("proc/self/cgroup", "4:memory:/docker/abc/inner\n");
  write("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", mebibytes(64));
  EXPECT_EQ(available(), 64);
}

}  // namespace
}  // namespace deeptitan

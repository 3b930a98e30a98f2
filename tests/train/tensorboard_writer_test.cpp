#include "train/tensorboard_writer.h"

#include <cstring>

#include <gtest/gtest.h>

#include "core/file.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the polynomial's check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

template <typename T>
T number_at(std::string_view bytes, size_t at) {
  T value;
  memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// The data of each record; checks lengths and checksums.
std::vector<std::string> records_of(const std::string& file) {
  const auto masked = [](std::string_view bytes) {
    const uint32_t crc = crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
  };
  std::vector<std::string> records;
  for (size_t at = 0; at < file.size();) {
    const auto length = number_at<uint64_t>(file, at);
    EXPECT_EQ(number_at<uint32_t>(file, at + 8), masked(file.substr(at, 8)));
    records.push_back(file.substr(at + 12, length));
    EXPECT_EQ(number_at<uint32_t>(file, at + 12 + length), masked(records.back()));
    at += length + 16;
  }
  return records;
}

std::string wall_time_bytes(double value) {
  std::string bytes(8, '\0');
  memcpy(bytes.data(), &value, 8);
  return "\x09" + bytes;
}

// Bytes written out by hand from event.proto and summary.proto.
TEST(TensorboardWriter, RecordsAreEventsThatTensorBoardReads) {
  const TemporaryFolder folder;
  TensorboardWriter writer(folder.path() / "tb", 300, 1000.5);
  const MetricScalar scalars[] = {{"a/b", 1.0}, {"c", -2.0}};
  writer.write(301, 1001.5, scalars);
  const std::vector<std::string> records = records_of(read_file(writer.path()));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0], wall_time_bytes(1000.5) + std::string("\x10\x00", 2) + "\x1A\x0D" + "brain.Event:2");
  EXPECT_EQ(records[1], wall_time_bytes(1000.5) + "\x10\xAC\x02" + "\x3A\x02\x08\x01");
  EXPECT_EQ(records[2], wall_time_bytes(1001.5) + "\x10\xAD\x02" + "\x2A\x16" + "\x0A\x0A\x0A\x03" + "a/b" +
                            std::string("\x15\x00\x00\x80\x3F", 5) + "\x0A\x08\x0A\x01" + "c" +
                            std::string("\x15\x00\x00\x00\xC0", 5));
}

TEST(TensorboardWriter, EachRunHasAFileOfItsOwn) {
  const TemporaryFolder folder;
  TensorboardWriter first(folder.path(), 1, 1000), second(folder.path(), 1, 1000);
  EXPECT_NE(first.path(), second.path());
  EXPECT_NE(first.path().string().find("events.out.tfevents.0000001000."), std::string::npos);
}

}  // namespace
}  // namespace deeptitan

#include "train/tensorboard_writer.h"

#include <array>
#include <bit>
#include <cstring>

#include <unistd.h>

#include "core/error.h"

namespace deeptitan {

namespace {

// Protocol buffers: a field is its number and wire type in one varint, then its value.
constexpr uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_key(std::string& out, uint64_t field, uint64_t wire_type) {
  append_varint(out, field << 3 | wire_type);
}

template <typename T>
void append_little_endian(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof value];
  memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void append_bytes(std::string& out, uint64_t field, std::string_view value) {
  append_key(out, field, kBytes);
  append_varint(out, value.size());
  out += value;
}

/// Event: wall_time = 1, step = 2, and one of file_version = 3, summary = 5, session_log = 7.
std::string event(double wall_time, int64_t step, uint64_t content_field, std::string_view content) {
  std::string out;
  append_key(out, 1, kFixed64);
  append_little_endian(out, wall_time);
  append_key(out, 2, kVarint);
  append_varint(out, static_cast<uint64_t>(step));
  append_bytes(out, content_field, content);
  return out;
}

/// SessionLog: status = 1, whose value START is 1.
std::string session_start() {
  std::string out;
  append_key(out, 1, kVarint);
  append_varint(out, 1);
  return out;
}

/// Summary: repeated value = 1, each with tag = 1 and simple_value = 2.
std::string summary(std::span<const MetricScalar> scalars) {
  std::string out;
  for (const MetricScalar& scalar : scalars) {
    std::string value;
    append_bytes(value, 1, scalar.tag);
    append_key(value, 2, kFixed32);
    append_little_endian(value, static_cast<float>(scalar.value));
    append_bytes(out, 1, value);
  }
  return out;
}

/// TFRecord stores checksums rotated and offset, so that a record inside a record does not check.
uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u;
}

/// A name that sorts by time and that TensorBoard knows by its "tfevents".
std::string file_name(double wall_time) {
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  return fmt::format("events.out.tfevents.{:010}.{}.{}", static_cast<int64_t>(wall_time), host, ::getpid());
}

/// The first such name that is free: a run may be resumed twice within a second.
std::filesystem::path free_path(const std::filesystem::path& folder, double wall_time) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  DT_CHECK(!error, "cannot create {}: {}", folder.string(), error.message());
  const std::string name = file_name(wall_time);
  for (int i = 0;; ++i) {
    std::filesystem::path path = folder / fmt::format("{}.{}", name, i);
    if (!std::filesystem::exists(path)) return path;
  }
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = table[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder, int64_t first_step, double wall_time)
    : file_(File::create(free_path(folder, wall_time))) {
  write_record(event(wall_time, 0, 3, "brain.Event:2"));
  write_record(event(wall_time, first_step, 7, session_start()));
}

void TensorboardWriter::write(int64_t step, double wall_time, std::span<const MetricScalar> scalars) {
  write_record(event(wall_time, step, 5, summary(scalars)));
}

void TensorboardWriter::write_record(std::string_view data) {
  std::string record;
  append_little_endian(record, static_cast<uint64_t>(data.size()));
  append_little_endian(record, masked_crc32c(record));
  record += data;
  append_little_endian(record, masked_crc32c(data));
  file_.write_at(record.data(), record.size(), end_);
  end_ += record.size();
}

}  // namespace deeptitan

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace deeptitan {

/// An open file, closed when it goes out of scope. Every error names the file and the operating system's reason; a full
/// disk says how much was asked for and how much is free.
class File {
 public:
  /// Opens an existing file for reading; throws Error if it is missing, unreadable, or not a regular file (a directory,
  /// a pipe, a device): such a file has no size, and reading it may never end.
  static File open(const std::filesystem::path& path);
  /// Creates the file for writing and reading, or empties it if it exists.
  static File create(const std::filesystem::path& path);
  /// Opens the file for writing and reading with what it holds, or creates it empty.
  static File open_or_create(const std::filesystem::path& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  /// Size in bytes.
  uint64_t size() const;
  /// Reads exactly `bytes` bytes from `offset`; throws Error if the file ends before.
  void read_at(void* destination, size_t bytes, uint64_t offset) const;
  /// Writes all of `bytes` bytes at `offset`.
  void write_at(const void* source, size_t bytes, uint64_t offset);
  /// Cuts or extends the file to `bytes` bytes.
  void resize(uint64_t bytes);
  /// Asks the file system for room for `bytes` bytes, so that a full disk is found before the work and not after;
  /// does nothing where the file system cannot.
  void reserve(uint64_t bytes);
  /// Returns once the contents are on the device (fsync).
  void sync();

 private:
  File(std::filesystem::path path, int descriptor);
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Returns once the directory's entries (creations, renames, removals) are on the device.
void sync_directory(const std::filesystem::path& directory);

/// A file that is read whole is no larger than this unless its reader says so.
inline constexpr size_t kMaxWholeFileBytes = size_t{1} << 30;

/// The whole of a regular file; throws Error if it cannot be read or has more than `max_bytes`.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = kMaxWholeFileBytes);

/// As read_file, for what a person hands over (a prompt, texts to score): also from a pipe that somebody writes into,
/// such as a shell's <(...).
std::string read_file_or_pipe(const std::filesystem::path& path, size_t max_bytes = kMaxWholeFileBytes);

/// Creates or replaces the file with `text`, whole or not at all: written to a hidden file beside it, synced, and
/// renamed into its place (of a link: into that of what it points to, with the permissions that this had). What is not
/// a regular file (a pipe, a terminal, /dev/stdout) is written to as it is. Throws Error; the old file is then as it
/// was.
void write_file(const std::filesystem::path& path, std::string_view text);

/// Throws Error for a failed call on `path`: "cannot <what> <path>: <reason of error_number>", for a full disk with the
/// space that is left and what to do.
[[noreturn]] void fail_file(std::string_view what, const std::filesystem::path& path, int error_number);

/// Bytes in the unit a person reads, decimal: "512 bytes", "4.5 MB", "31.4 GB".
std::string format_bytes(uint64_t bytes);

}  // namespace deeptitan

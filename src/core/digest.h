#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace deeptitan {

/// XXH3-128 of a stream of bytes (xxHash 0.8, https://github.com/Cyan4973/xxHash): finds damage, does not stand against
/// an attacker. It is faster than any disk.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void add(const void* data, size_t bytes);
  /// 32 hexadecimal digits: the canonical form, as `xxhsum -H2` prints it.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// How long a file is, and the digest of its bytes.
struct FileDigest {
  uint64_t bytes = 0;
  std::string digest;
  bool operator==(const FileDigest&) const = default;
};

/// Reads the file from end to end. Throws Error where it cannot be read.
FileDigest digest_of_file(const std::filesystem::path& path);

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace deeptitan {

/// A 128-bit hash of a sequence of byte strings, to tell changed text from unchanged; not for secrets. Where one string
/// ends and the next begins counts.
class ContentHash {
 public:
  void add(std::string_view bytes);

  /// 32 hexadecimal digits.
  std::string hex() const;

 private:
  uint64_t first_ = 0x243F6A8885A308D3u;
  uint64_t second_ = 0x13198A2E03707344u;
};

}  // namespace deeptitan

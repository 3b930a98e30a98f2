#include "core/digest.h"

#include <algorithm>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>

// Compiled here, with this program's vector width, and not as the library's.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {

struct Digest::State {
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> xxh{XXH3_createState(), XXH3_freeState};
};

Digest::Digest() : state_(std::make_unique<State>()) {
  DT_CHECK(state_->xxh != nullptr && XXH3_128bits_reset(state_->xxh.get()) == XXH_OK, "no memory for a digest");
}
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::add(const void* data, size_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_->xxh.get(), data, bytes);
}

std::string Digest::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

FileDigest digest_of_file(const std::filesystem::path& path) {
  constexpr uint64_t kBlock = 4 << 20;
  const File file = File::open(path);
  const uint64_t bytes = file.size();
  ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<std::byte> block(std::min(kBlock, std::max<uint64_t>(1, bytes)));
  Digest digest;
  for (uint64_t at = 0; at < bytes; at += block.size()) {
    const size_t part = std::min<uint64_t>(block.size(), bytes - at);
    file.read_at(block.data(), part, at);
    digest.add(block.data(), part);
  }
  return {bytes, digest.hex()};
}

}  // namespace deeptitan

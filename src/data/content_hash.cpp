#include "data/content_hash.h"

#include <cstring>

#include <fmt/format.h>

#include "core/random.h"

namespace deeptitan {

namespace {

/// Both halves of the 128-bit product folded into one word.
uint64_t fold_product(uint64_t a, uint64_t b) {
  __extension__ using uint128 = unsigned __int128;
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

void ContentHash::add(std::string_view bytes) {
  const auto absorb = [this](uint64_t word) {
    first_ = fold_product(first_ ^ word, 0x9E3779B97F4A7C15u) + 0xA4093822299F31D0u;
    second_ = (second_ ^ word) * 0xBF58476D1CE4E5B9u;
    second_ ^= second_ >> 29;
  };
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    memcpy(&word, bytes.data() + at, 8);
    absorb(word);
  }
  uint64_t rest = 0;
  if (at < bytes.size()) memcpy(&rest, bytes.data() + at, bytes.size() - at);
  absorb(rest);
  absorb(bytes.size());
}

std::string ContentHash::hex() const {
  return fmt::format("{:016x}{:016x}", mix_bits(first_ + second_), mix_bits(second_ ^ (first_ << 32 | first_ >> 32)));
}

}  // namespace deeptitan

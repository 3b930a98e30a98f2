#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/bfloat16.h"
#include "core/random.h"

// Stochastic rounding of what an optimizer keeps in bf16, decided here for host and device alike. What is added to a
// running mean in a step is often less than half a unit in bf16's last place: rounded to nearest it would be lost in
// every step, rounded at random it arrives on average (Gupta et al. 2015, arXiv:1502.02551).

namespace deeptitan {

/// Which elements of which parameter an array has: element i of it is element `first + i` of the whole parameter.
struct RoundingPlace {
  uint64_t key = 0;  // rounding_key of the parameter
  int64_t first = 0;
};

/// The random numbers of a parameter, wherever it lies.
constexpr uint64_t rounding_key(std::string_view parameter) {
  return random_key(parameter, 0x6D6F6D656E74u);  // "moment": no seed of a run, so that going on needs none
}

/// The words of elements 4 * block ... 4 * block + 3 of a parameter in update `update`: the lower half of an element's
/// word rounds its first moment, the upper half its second.
DT_HOST_DEVICE inline Philox4x32 rounding_words(uint64_t key, uint64_t block, uint64_t update) {
  return philox4x32_10({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                         static_cast<uint32_t>(update), static_cast<uint32_t>(update >> 32)}},
                       key);
}

/// One of the two bfloat16 around x, the nearer one the likelier, so that the mean over all 65536 values of `random`
/// is x; x itself where it is one. What is not finite stays so.
DT_HOST_DEVICE inline bfloat16 round_randomly(float x, uint16_t random) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + random) >> 16)};
}

}  // namespace deeptitan

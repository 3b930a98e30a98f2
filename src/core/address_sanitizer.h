#pragma once

#include <cstdint>

// What an arena tells AddressSanitizer, so that a piece used after its release, or beyond its end, is caught as in a
// heap. Elsewhere these do nothing.

#if defined(__SANITIZE_ADDRESS__)
#define DT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DT_ADDRESS_SANITIZER 1
#endif
#endif

#ifdef DT_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace deeptitan {

#ifdef DT_ADDRESS_SANITIZER
inline constexpr bool kAddressSanitizer = true;
inline void poison_memory(const void* begin, int64_t bytes) {
  __asan_poison_memory_region(begin, bytes);
}
inline void unpoison_memory(const void* begin, int64_t bytes) {
  __asan_unpoison_memory_region(begin, bytes);
}
#else
inline constexpr bool kAddressSanitizer = false;
inline void poison_memory(const void* /*begin*/, int64_t /*bytes*/) {}
inline void unpoison_memory(const void* /*begin*/, int64_t /*bytes*/) {}
#endif

}  // namespace deeptitan

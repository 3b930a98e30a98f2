#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace deeptitan {

/// The hash by which the hub names a file: SHA-256 of the bytes for large files (64 hexadecimal digits), and git's blob
/// SHA-1 (40 digits) for the rest: SHA-1 of "blob <size>\0" and the bytes.
class BlobHash {
 public:
  /// A hash of the kind of `expected`; throws Error if that is neither 40 nor 64 lower-case hexadecimal digits.
  BlobHash(std::string_view expected, uint64_t size);

  void update(const void* data, size_t bytes);
  /// Lower-case hexadecimal digits; the object is used up.
  std::string finish();

  /// Whether the text is a hash that can be checked.
  static bool is_hash(std::string_view text);

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace deeptitan

#include "hub/blob_hash.h"

#include <openssl/evp.h>

#include "core/error.h"

namespace deeptitan {

void BlobHash::Free::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

bool BlobHash::is_hash(std::string_view text) {
  return (text.size() == 40 || text.size() == 64) && text.find_first_not_of("0123456789abcdef") == text.npos;
}

BlobHash::BlobHash(std::string_view expected, uint64_t size) : context_(EVP_MD_CTX_new()) {
  DT_CHECK(is_hash(expected), "\"{}\" is neither a SHA-256 nor a SHA-1 in hexadecimal digits", expected);
  const bool sha256 = expected.size() == 64;
  DT_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), sha256 ? EVP_sha256() : EVP_sha1(), nullptr) == 1,
           "libcrypto refuses {}", sha256 ? "SHA-256" : "SHA-1");
  if (!sha256) {
    const std::string header = fmt::format("blob {}", size);
    update(header.c_str(), header.size() + 1);
  }
}

void BlobHash::update(const void* data, size_t bytes) {
  DT_CHECK(EVP_DigestUpdate(context_.get(), data, bytes) == 1, "libcrypto failed to hash {} bytes", bytes);
}

std::string BlobHash::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  DT_CHECK(EVP_DigestFinal_ex(context_.get(), digest, &length) == 1, "libcrypto failed to finish a hash");
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace deeptitan

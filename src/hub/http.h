#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace deeptitan {

/// The headers of an exchange, names in lower case. A redirect makes several responses: `last` is the final one's,
/// `first` keeps the first value of each name over all of them (the hub describes a file in the response that redirects
/// to its store).
struct HttpHeaders {
  std::map<std::string, std::string> last;
  std::map<std::string, std::string> first;
};

/// How patient to be with the network.
struct HttpPatience {
  int attempts = 5;                       // in a row without progress
  std::chrono::milliseconds delay{1000};  // before the second attempt; doubles with each
  std::chrono::seconds connect_timeout{30};
  std::chrono::seconds stall_timeout{60};  // a transfer that is slower than this for so long is broken:
  int64_t least_bytes_per_second = 1000;   //   below it a model takes weeks
  uint64_t least_progress_bytes = 16'384;  // an attempt that brings fewer new bytes has failed like one without any
  std::chrono::seconds longest_wait{300};  // that a server may ask for (Retry-After)
};

/// A small exchange that ended with a status; redirects have been followed.
struct HttpResponse {
  long status = 0;
  HttpHeaders headers;
  std::string body;  // empty for HEAD
};

/// GET (or HEAD) of `url`, with "Authorization: Bearer token" unless token is empty; the token goes to the url's host
/// alone, never to another that a redirect names. Network failures and statuses 408, 429 and 5xx are tried again.
/// Throws Error if the host cannot be reached or the body exceeds 64 MB. HTTPS_PROXY, ALL_PROXY and NO_PROXY are
/// honoured.
HttpResponse http_get(const std::string& url, const std::string& token, const HttpPatience& patience);
HttpResponse http_head(const std::string& url, const std::string& token, const HttpPatience& patience);

/// Every byte but letters, digits and -._~ (and '/' if asked) as %XX.
std::string percent_encode(std::string_view text, bool keep_slashes);

/// "HOST" or "HOST:PORT" of a URL.
std::string host_of(const std::string& url);

/// The value of a header, empty if it is absent.
std::string header_value(const std::map<std::string, std::string>& headers, const std::string& name);

}  // namespace deeptitan

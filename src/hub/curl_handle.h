// libcurl's easy handle with what all exchanges share; for the .cpp files of this folder only.
#pragma once

#include <memory>
#include <string>

#include <curl/curl.h>

#include "hub/http.h"

namespace deeptitan {

struct CurlFree {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
};
using CurlHandle = std::unique_ptr<CURL, CurlFree>;

/// A handle for `url` that follows redirects (to http and https, not from https to http), collects headers into
/// `headers`, and gives the token to the url's own host only. `headers` must outlive the handle.
CurlHandle make_curl_handle(const std::string& url, const std::string& token, const HttpPatience& patience,
                            HttpHeaders& headers);

/// Whether the same request may succeed later.
bool is_transient(CURLcode code);
bool is_transient_status(long status);

/// delay * 2^(failures - 1), at most a minute, or what the server's Retry-After (seconds or a date) asks for, which is
/// said. Throws Error where that is longer than patience.longest_wait.
std::chrono::milliseconds retry_delay(const HttpPatience& patience, int failures, const HttpHeaders& headers,
                                      const std::string& host);

/// Throws Error for a transfer that libcurl gave up.
[[noreturn]] void fail_connection(const std::string& url, CURLcode code, const std::string& what_next);

}  // namespace deeptitan

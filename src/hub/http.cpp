#include "hub/http.h"

#include <algorithm>
#include <charconv>
#include <ctime>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "core/shown_text.h"
#include "hub/curl_handle.h"

namespace deeptitan {
namespace {

constexpr size_t kMaxBodyBytes = 64'000'000;
constexpr int64_t kSaidWait = 5;      // seconds from which on a wait is said
constexpr size_t kMaxHeaders = 1000;  // of one response

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r' || text.back() == '\n')) {
    text.remove_suffix(1);
  }
  return text;
}

size_t on_header(char* data, size_t size, size_t count, void* context) {
  auto& headers = *static_cast<HttpHeaders*>(context);
  const std::string_view line(data, size * count);
  if (line.starts_with("HTTP/")) {
    headers.last.clear();
  } else if (const size_t colon = line.find(':'); colon != line.npos) {
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    const std::string value(trimmed(line.substr(colon + 1)));
    if (headers.last.size() >= kMaxHeaders) return 0;
    headers.first.emplace(name, value);
    headers.last[name] = value;
  }
  return size * count;
}

size_t on_body(char* data, size_t size, size_t count, void* context) {
  auto& body = *static_cast<std::string*>(context);
  if (body.size() + size * count > kMaxBodyBytes) return 0;
  body.append(data, size * count);
  return size * count;
}

/// Seconds of a Retry-After, which is a number of them or a date (RFC 9110, section 10.2.3); nothing where it is
/// neither.
std::optional<int64_t> seconds_asked_for(const std::string& asked) {
  if (asked.empty()) return std::nullopt;
  if (asked.find_first_not_of("0123456789") == asked.npos) {
    int64_t seconds = 0;
    const auto [end, error] = std::from_chars(asked.data(), asked.data() + asked.size(), seconds);
    return error == std::errc() ? seconds : std::numeric_limits<int64_t>::max();
  }
  const time_t date = curl_getdate(asked.c_str(), nullptr);
  if (date < 0) return std::nullopt;
  return std::max<int64_t>(0, date - std::time(nullptr));
}

HttpResponse exchange(const std::string& url, const std::string& token, const HttpPatience& patience, bool head) {
  for (int failures = 1;; ++failures) {
    HttpResponse response;
    const CurlHandle handle = make_curl_handle(url, token, patience, response.headers);
    curl_easy_setopt(handle.get(), CURLOPT_NOBODY, head ? 1L : 0L);
    curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, &response.body);
    const CURLcode code = curl_easy_perform(handle.get());
    DT_CHECK(code != CURLE_WRITE_ERROR, "{} answers with more than {} MB; it does not look like a hub", url,
             kMaxBodyBytes / 1'000'000);
    curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &response.status);
    const bool transient = code == CURLE_OK ? is_transient_status(response.status) : is_transient(code);
    if (!transient || failures >= patience.attempts) {
      if (code != CURLE_OK) fail_connection(url, code, "run the same command again");
      return response;
    }
    std::this_thread::sleep_for(retry_delay(patience, failures, response.headers, host_of(url)));
  }
}

}  // namespace

CurlHandle make_curl_handle(const std::string& url, const std::string& token, const HttpPatience& patience,
                            HttpHeaders& headers) {
  static std::once_flag initialised;
  std::call_once(initialised, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  CurlHandle handle(curl_easy_init());
  DT_CHECK(handle != nullptr, "libcurl could not be initialised");
  CURL* curl = handle.get();
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "deeptitan");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
  // A server must not lead the transfer to file:// or from an encrypted to an open connection.
  const bool https = url.starts_with("https://");
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, https ? "https" : "http,https");
#else
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS, https ? CURLPROTO_HTTPS : CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, static_cast<long>(patience.connect_timeout.count()));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(patience.least_bytes_per_second));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(patience.stall_timeout.count()));
  curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &headers);
  if (!token.empty()) {
    // As credentials, not as a header of our own: libcurl then keeps them to the first host
    // (CURLOPT_UNRESTRICTED_AUTH).
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, token.c_str());
  }
  return handle;
}

bool is_transient(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

bool is_transient_status(long status) {
  return status == 408 || status == 429 || status >= 500;
}

std::chrono::milliseconds retry_delay(const HttpPatience& patience, int failures, const HttpHeaders& headers,
                                      const std::string& host) {
  const std::string asked = header_value(headers.last, "retry-after");
  if (const std::optional<int64_t> seconds = seconds_asked_for(asked)) {
    DT_CHECK(*seconds <= patience.longest_wait.count(),
             "{} asks to wait {} seconds before the next request (Retry-After: {}); run the same command again then",
             host, *seconds, shown(asked));
    if (*seconds >= kSaidWait) log_info(fmt::format("{} asks to wait {} seconds; waiting", host, *seconds));
    return std::chrono::seconds(*seconds);
  }
  const auto delay = patience.delay * (int64_t{1} << std::min(failures - 1, 16));
  return std::min(delay, std::chrono::milliseconds(60'000));
}

std::string host_of(const std::string& url) {
  const size_t begin = url.find("://") == url.npos ? 0 : url.find("://") + 3;
  return url.substr(begin, url.find_first_of("/?#", begin) - begin);
}

void fail_connection(const std::string& url, CURLcode code, const std::string& what_next) {
  fail("no connection to {}: {}; check the network, HF_ENDPOINT and HTTPS_PROXY, then {}", host_of(url),
       curl_easy_strerror(code), what_next);
}

std::string percent_encode(std::string_view text, bool keep_slashes) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '.' || c == '_' || c == '~' || (keep_slashes && c == '/');
    if (plain) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

std::string header_value(const std::map<std::string, std::string>& headers, const std::string& name) {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

HttpResponse http_get(const std::string& url, const std::string& token, const HttpPatience& patience) {
  return exchange(url, token, patience, false);
}

HttpResponse http_head(const std::string& url, const std::string& token, const HttpPatience& patience) {
  return exchange(url, token, patience, true);
}

}  // namespace deeptitan

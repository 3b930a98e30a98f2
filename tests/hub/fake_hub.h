#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace deeptitan::test {

/// What the fake hub does wrong with a file's bytes.
struct Fault {
  int times = 0;                    // for this many requests of the file; then all is well
  uint64_t cut_after = UINT64_MAX;  // close the connection after so many bytes
  int status = 0;                   // answer this status instead
  bool at_store = false;            // `status` comes from the store, not from the hub
  bool ignore_range = false;        // send the whole file as 200
  std::string retry_after = "0";    // beside `status`
  int milliseconds_a_byte = 0;      // send that slowly
  std::string instead;              // send these bytes, as many as the file has
};

/// A request that the hub or its store has seen.
struct SeenRequest {
  bool store;  // by the store's host, not by the hub's
  std::string method;
  std::string path;
  std::string authorization;
  std::string range;
};

/// An HTTP server on loopback that behaves as the Hugging Face hub does towards a download: the listing of a revision
/// with sizes and hashes, and /resolve/, which sends small files itself (ETag: git SHA-1) and redirects large ones
/// (X-Linked-Etag: SHA-256, X-Linked-Size) to a store on another host. Both answer Range requests.
class FakeHub {
 public:
  static constexpr const char* kRepository = "owner/model.v1";
  static constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

  FakeHub();
  ~FakeHub();

  /// "http://127.0.0.1:PORT"
  const std::string& endpoint() const { return endpoint_; }
  void add_small(const std::string& name, const std::string& contents) { add(name, contents, false); }
  void add_large(const std::string& name, const std::string& contents) { add(name, contents, true); }
  void set_fault(const std::string& name, const Fault& fault);

  // The rest is set before the first request.
  std::string branch = "main";
  bool describe_files = true;  // sizes and hashes in the listing
  bool send_hashes = true;     // in headers
  std::string required_token;  // 401 without it
  int listing_status = 200;    // anything else is answered with error_code
  std::string error_code;      // X-Error-Code
  int failing_listings = 0;    // answer 503 this many times first
  std::string listing_text;    // answered as it is, if not empty
  int64_t listed_beyond = 0;   // sizes are listed that many bytes larger than they are
  std::string redirect_to;     // instead of the store's address

  std::vector<SeenRequest> requests() const;
  void forget_requests();
  /// How many requests for the contents of `name` have been seen (at the hub, redirects included).
  int count_of(const std::string& name) const;

 private:
  struct Served {
    std::string contents;
    bool large;
    std::string hash;
    Fault fault;
  };
  struct Servers;
  void add(const std::string& name, const std::string& contents, bool large);

  std::string endpoint_, store_endpoint_;
  mutable std::mutex mutex_;
  std::map<std::string, Served> files_;
  std::vector<SeenRequest> requests_;
  std::unique_ptr<Servers> servers_;
};

}  // namespace deeptitan::test

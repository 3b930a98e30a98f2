#include "hub/fake_hub.h"

#include <algorithm>
#include <thread>

#include <fmt/format.h>
#include <httplib.h>

#include "hub/blob_hash.h"

namespace deeptitan::test {

struct FakeHub::Servers {
  httplib::Server hub, store;
  std::thread hub_thread, store_thread;

  explicit Servers(FakeHub& owner);
  ~Servers() {
    hub.stop();
    store.stop();
    hub_thread.join();
    store_thread.join();
  }

  void listing(const httplib::Request& request, httplib::Response& response);
  void resolve(const httplib::Request& request, httplib::Response& response);
  void stored(const httplib::Request& request, httplib::Response& response);
  void see(const httplib::Request& request, bool store_host);
  static void send(const Served& file, const Fault& fault, const httplib::Request& request,
                   httplib::Response& response);

  FakeHub& owner_;
};

FakeHub::Servers::Servers(FakeHub& owner) : owner_(owner) {
  const auto handler = [this](void (Servers::*function)(const httplib::Request&, httplib::Response&)) {
    return [this, function](const httplib::Request& request, httplib::Response& response) {
      const std::lock_guard lock(owner_.mutex_);
      (this->*function)(request, response);
    };
  };
  hub.Get("/api/models/([^/]+/[^/]+)/revision/(.+)", handler(&Servers::listing));
  hub.Get("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", handler(&Servers::resolve));
  store.Get("/store/(.+)", handler(&Servers::stored));
  // The store answers as "localhost", the hub as "127.0.0.1": two hosts, as far as a client can tell.
  owner.endpoint_ = fmt::format("http://127.0.0.1:{}", hub.bind_to_any_port("127.0.0.1"));
  owner.store_endpoint_ = fmt::format("http://localhost:{}", store.bind_to_any_port("127.0.0.1"));
  hub_thread = std::thread([this] { hub.listen_after_bind(); });
  store_thread = std::thread([this] { store.listen_after_bind(); });
  while (!hub.is_running() || !store.is_running()) std::this_thread::yield();
}

void FakeHub::Servers::see(const httplib::Request& request, bool store_host) {
  owner_.requests_.push_back({store_host, request.method, request.path, request.get_header_value("Authorization"),
                              request.get_header_value("Range")});
}

void FakeHub::Servers::listing(const httplib::Request& request, httplib::Response& response) {
  see(request, false);
  if (owner_.failing_listings > 0) {
    --owner_.failing_listings;
    response.status = 503;
    return;
  }
  if (!owner_.required_token.empty() &&
      request.get_header_value("Authorization") != "Bearer " + owner_.required_token) {
    response.status = 401;
    return;
  }
  if (owner_.listing_status != 200 || request.matches[1] != kRepository) {
    response.status = owner_.listing_status != 200 ? owner_.listing_status : 404;
    response.set_header("X-Error-Code", owner_.listing_status != 200 ? owner_.error_code : "RepoNotFound");
    return;
  }
  if (request.matches[2] != owner_.branch && request.matches[2] != kCommit) {
    response.status = 404;
    response.set_header("X-Error-Code", "RevisionNotFound");
    return;
  }
  if (!owner_.listing_text.empty()) {
    response.set_content(owner_.listing_text, "application/json");
    return;
  }
  std::string siblings;
  for (const auto& [name, file] : owner_.files_) {
    if (!siblings.empty()) siblings += ',';
    siblings += fmt::format(R"({{"rfilename":"{}")", name);
    if (owner_.describe_files) {
      const uint64_t size = file.contents.size() + static_cast<uint64_t>(owner_.listed_beyond);
      siblings += fmt::format(R"(,"size":{},"blobId":"{}")", size, file.large ? std::string(40, 'b') : file.hash);
      if (file.large)
        siblings += fmt::format(R"(,"lfs":{{"size":{},"sha256":"{}","pointerSize":134}})", size, file.hash);
    }
    siblings += '}';
  }
  response.set_content(fmt::format(R"({{"id":"{}","sha":"{}","siblings":[{}]}})", kRepository, kCommit, siblings),
                       "application/json");
}

void FakeHub::Servers::resolve(const httplib::Request& request, httplib::Response& response) {
  see(request, false);
  const auto found = owner_.files_.find(request.matches[3]);
  const bool known_revision = request.matches[2] == kCommit || request.matches[2] == owner_.branch;
  if (found == owner_.files_.end() || !known_revision) {
    response.status = 404;
    response.set_header("X-Error-Code", "EntryNotFound");
    return;
  }
  Served& file = found->second;
  Fault fault;
  if (file.fault.times > 0 && request.method == "GET") {
    fault = file.fault;
    if (!file.large || (fault.status != 0 && !fault.at_store)) --file.fault.times;
  }
  if (fault.status != 0 && !fault.at_store) {
    response.status = fault.status;
    response.set_header("X-Error-Code", owner_.error_code);
    response.set_header("Retry-After", fault.retry_after);
    return;
  }
  response.set_header("X-Repo-Commit", kCommit);
  if (!file.large) {
    if (owner_.send_hashes) response.set_header("ETag", "\"" + file.hash + "\"");
    send(file, fault, request, response);
    return;
  }
  if (owner_.send_hashes) response.set_header("X-Linked-Etag", "\"" + file.hash + "\"");
  response.set_header("X-Linked-Size", std::to_string(file.contents.size()));
  response.set_redirect(owner_.redirect_to.empty() ? owner_.store_endpoint_ + "/store/" + found->first
                                                   : owner_.redirect_to);
}

void FakeHub::Servers::stored(const httplib::Request& request, httplib::Response& response) {
  see(request, true);
  Served& file = owner_.files_.at(request.matches[1]);
  Fault fault;
  if (file.fault.times > 0 && request.method == "GET") {
    fault = file.fault;
    --file.fault.times;
  }
  if (fault.status != 0) {
    response.status = fault.status;
    return;
  }
  response.set_header("ETag", "\"the-store-has-its-own\"");
  send(file, fault, request, response);
}

void FakeHub::Servers::send(const Served& file, const Fault& fault, const httplib::Request& request,
                            httplib::Response& response) {
  std::string bytes = fault.instead.empty() ? file.contents : fault.instead;
  response.status = 200;
  // Ranges are answered here, not by the server library, so that they can be answered wrongly.
  const std::string range = request.get_header_value("Range");
  const_cast<httplib::Request&>(request).ranges.clear();
  if (!range.empty() && !fault.ignore_range) {
    const size_t first = std::stoul(range.substr(range.find('=') + 1));
    if (first >= bytes.size()) {
      response.status = 416;
      return;
    }
    response.status = 206;
    response.set_header("Content-Range", fmt::format("bytes {}-{}/{}", first, bytes.size() - 1, bytes.size()));
    bytes.erase(0, first);
  }
  if (bytes.empty()) {
    response.set_content("", "application/octet-stream");
    return;
  }
  const uint64_t length = bytes.size();
  response.set_content_provider(
      length, "application/octet-stream",
      [bytes = std::move(bytes), cut_after = fault.cut_after, pause = fault.milliseconds_a_byte](
          size_t offset, size_t count, httplib::DataSink& sink) {
        if (offset >= cut_after) return false;
        if (pause > 0) {
          std::this_thread::sleep_for(std::chrono::milliseconds(pause));
          count = 1;
        }
        count = std::min({count, size_t{16384}, static_cast<size_t>(cut_after) - offset});
        return sink.write(bytes.data() + offset, count);
      });
}

FakeHub::FakeHub() : servers_(std::make_unique<Servers>(*this)) {}

FakeHub::~FakeHub() = default;

void FakeHub::add(const std::string& name, const std::string& contents, bool large) {
  BlobHash hash(std::string(large ? 64 : 40, '0'), contents.size());
  hash.update(contents.data(), contents.size());
  const std::lock_guard lock(mutex_);
  files_[name] = {contents, large, hash.finish(), {}};
}

void FakeHub::set_fault(const std::string& name, const Fault& fault) {
  const std::lock_guard lock(mutex_);
  files_.at(name).fault = fault;
}

std::vector<SeenRequest> FakeHub::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void FakeHub::forget_requests() {
  const std::lock_guard lock(mutex_);
  requests_.clear();
}

int FakeHub::count_of(const std::string& name) const {
  int count = 0;
  for (const SeenRequest& request : requests()) {
    if (!request.store && request.path.ends_with("/" + name)) ++count;
  }
  return count;
}

}  // namespace deeptitan::test

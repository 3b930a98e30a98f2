#include "hub/repository_listing.h"

#include <algorithm>
#include <charconv>
#include <set>

#include <fnmatch.h>

#include "core/error.h"
#include "core/json_reader.h"
#include "core/shown_text.h"
#include "hub/blob_hash.h"

namespace deeptitan {
namespace {

using nlohmann::json;

/// So that no sum of sizes leaves 64 bits.
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 50;
constexpr size_t kMaxFiles = 10'000;

/// `"abc"`, `W/"abc"` and abc all name abc.
std::string plain_etag(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
  return etag;
}

bool parse_size(const std::string& text, uint64_t& size) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  return error == std::errc() && stop == text.data() + text.size() && !text.empty();
}

/// What the listing says of a file; false if it lacks the size or the hash.
bool describe_from_listing(const json& sibling, RemoteFile& file) {
  const auto number = [](const json& object, const char* key, uint64_t& value) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_number_unsigned()) return false;
    value = found->get<uint64_t>();
    return true;
  };
  const auto hash = [](const json& object, const char* key, std::string& value) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string()) return false;
    value = found->get<std::string>();
    return BlobHash::is_hash(value);
  };
  const auto lfs = sibling.find("lfs");
  if (lfs != sibling.end() && lfs->is_object())
    return number(*lfs, "size", file.size) && hash(*lfs, "sha256", file.hash);
  return number(sibling, "size", file.size) && hash(sibling, "blobId", file.hash);
}

void describe_from_headers(const std::string& repository, const std::string& commit, const HubSettings& settings,
                           const HttpPatience& patience, RemoteFile& file) {
  const std::string url = file_url(settings, repository, commit, file.name);
  const HttpResponse response = http_head(url, settings.token, patience);
  if (response.status != 200) fail_status(response.status, response.headers, repository, commit, file.name, settings);
  const HttpHeaders& headers = response.headers;
  const std::string linked_etag = header_value(headers.first, "x-linked-etag");
  const std::string linked_size = header_value(headers.first, "x-linked-size");
  file.hash = plain_etag(linked_etag.empty() ? header_value(headers.first, "etag") : linked_etag);
  const bool sized =
      parse_size(linked_size.empty() ? header_value(headers.last, "content-length") : linked_size, file.size);
  DT_CHECK(
      sized && BlobHash::is_hash(file.hash),
      "{} gives no size or hash for {}, so it could not be checked; HF_ENDPOINT must be a Hugging Face hub or a mirror "
      "that passes X-Linked-Size and X-Linked-Etag on",
      host_of(url), file.name);
}

bool is_included(const std::string& name, const std::vector<std::string>& include) {
  return include.empty() || std::any_of(include.begin(), include.end(), [&](const std::string& pattern) {
           return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
         });
}

}  // namespace

std::string file_url(const HubSettings& settings, const std::string& repository, const std::string& commit,
                     const std::string& file) {
  return fmt::format("{}/{}/resolve/{}/{}", settings.endpoint, repository, commit, percent_encode(file, true));
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > 4000) return false;
  for (const char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') return false;
  }
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view component = path.substr(0, slash);
    if (component.empty() || component == "." || component == ".." || component.size() > 255) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

void fail_status(long status, const HttpHeaders& headers, const std::string& repository, const std::string& revision,
                 const std::string& file, const HubSettings& settings) {
  const std::string code = header_value(headers.last, "x-error-code");
  const std::string page = settings.endpoint + "/" + repository;
  if (status == 403 || code == "GatedRepo") {
    fail(
        "{} is gated or not open to you ({}): accept its conditions at {} and set HF_TOKEN to a token of the account "
        "that "
        "did{}",
        repository, status, page, settings.token.empty() ? "; HF_TOKEN is not set" : "");
  }
  if (status == 401) {
    fail(
        "the hub does not show {} ({}): it does not exist, or it is private and {}; check the name, or set HF_TOKEN to "
        "a "
        "token that may read it",
        repository, status, settings.token.empty() ? "HF_TOKEN is not set" : "HF_TOKEN is not accepted");
  }
  if (status == 404 && code == "RevisionNotFound") {
    fail("{} has no revision {} ({}); its branches and tags stand at {}/tree/main", repository, revision, status, page);
  }
  if (status == 404 && !file.empty()) fail("{} has no file {} at {} ({})", repository, file, revision, status);
  if (status == 404) fail("there is no model {} at {} ({}); check the name", repository, settings.endpoint, status);
  if (status == 429)
    fail("{} asks for fewer requests ({}); wait some minutes and run the same command again", settings.endpoint,
         status);
  fail("{} answers {} for {}{}; run the same command again later", settings.endpoint, status, repository,
       file.empty() ? "" : ", file " + file);
}

RepositoryListing list_repository(const std::string& repository, const std::string& revision,
                                  const std::vector<std::string>& include, const HubSettings& settings,
                                  const HttpPatience& patience) {
  const std::string url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", settings.endpoint, repository,
                                      percent_encode(revision, false));
  const HttpResponse response = http_get(url, settings.token, patience);
  if (response.status != 200) fail_status(response.status, response.headers, repository, revision, "", settings);
  const json root = try_read_json(response.body).value_or(json());
  const auto commit = root.is_object() ? root.find("sha") : root.end();
  const auto siblings = root.is_object() ? root.find("siblings") : root.end();
  DT_CHECK(
      root.is_object() && commit != root.end() && commit->is_string() && siblings != root.end() && siblings->is_array(),
      "{} does not answer as a Hugging Face hub; check HF_ENDPOINT", settings.endpoint);

  RepositoryListing listing;
  listing.commit = commit->get<std::string>();
  DT_CHECK(listing.commit.size() == 40 && BlobHash::is_hash(listing.commit),
           "{} names no commit for {} {}, found \"{}\"", settings.endpoint, repository, revision,
           shown(listing.commit));
  DT_CHECK(siblings->size() <= kMaxFiles, "{} lists {} files in {}; at most {} can be downloaded", settings.endpoint,
           siblings->size(), repository, kMaxFiles);
  std::set<std::string> names;
  for (const json& sibling : *siblings) {
    const auto name = sibling.is_object() ? sibling.find("rfilename") : sibling.end();
    DT_CHECK(sibling.is_object() && name != sibling.end() && name->is_string(), "{} lists a file without a name in {}",
             settings.endpoint, repository);
    RemoteFile file;
    file.name = name->get<std::string>();
    DT_CHECK(is_safe_path(file.name), "{} lists a file {} that would leave its directory; nothing was downloaded",
             settings.endpoint, shown_json(*name));
    DT_CHECK(names.insert(file.name).second, "{} lists the file {} twice in {}", settings.endpoint, file.name,
             repository);
    if (!is_included(file.name, include)) continue;
    if (!describe_from_listing(sibling, file))
      describe_from_headers(repository, listing.commit, settings, patience, file);
    DT_CHECK(file.size <= kMaxFileBytes, "{} lists {} with {} bytes, more than any disk holds; nothing was downloaded",
             settings.endpoint, shown(file.name), file.size);
    listing.files.push_back(std::move(file));
  }
  if (listing.files.empty()) {
    std::string some;
    for (const std::string& name : names) {
      if (some.size() > 200) break;
      some += (some.empty() ? "" : ", ") + name;
    }
    fail("no file of {} {} matches --include; it has {}", repository, revision, some.empty() ? "no files" : some);
  }
  return listing;
}

}  // namespace deeptitan

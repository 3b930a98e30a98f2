#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hub/http.h"
#include "hub/hub_settings.h"

namespace deeptitan {

/// A file of a repository on the hub.
struct RemoteFile {
  std::string name;  // relative path with '/'
  uint64_t size = 0;
  std::string hash;  // SHA-256 of the bytes, or git's blob SHA-1 (see BlobHash)
};

/// The files of one commit.
struct RepositoryListing {
  std::string commit;  // 40 hexadecimal digits
  std::vector<RemoteFile> files;
};

/// Asks the hub for the commit that `revision` (branch, tag or commit) names and for its files; the size and the hash
/// of a file that the listing does not describe are asked for one by one. `include` holds glob patterns as in the
/// shell, where * also matches '/'; empty means all files.
/// Throws Error if the repository or revision does not exist or may not be read, if no file matches, or if the hub
/// names a file that would leave its directory.
RepositoryListing list_repository(const std::string& repository, const std::string& revision,
                                  const std::vector<std::string>& include, const HubSettings& settings,
                                  const HttpPatience& patience);

/// The URL of a file's contents: ENDPOINT/OWNER/NAME/resolve/COMMIT/FILE.
std::string file_url(const HubSettings& settings, const std::string& repository, const std::string& commit,
                     const std::string& file);

/// Throws the Error for a response other than success: what the status and the hub's X-Error-Code mean and what to do.
/// `file` is empty for the listing.
[[noreturn]] void fail_status(long status, const HttpHeaders& headers, const std::string& repository,
                              const std::string& revision, const std::string& file, const HubSettings& settings);

/// Whether a path from the hub stays inside its directory: relative, no empty, "." or ".." component, no backslash or
/// control character.
bool is_safe_path(std::string_view path);

}  // namespace deeptitan

#include "core/shared_library.h"

#include <dlfcn.h>

#include "core/error.h"

namespace deeptitan {

SharedLibrary::SharedLibrary(const std::string& name, const std::string& folder) : name_(name) {
  handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ != nullptr) return;
  const char* said = ::dlerror();
  const std::string reason = said == nullptr ? "unknown error" : said;
  if (!folder.empty()) handle_ = ::dlopen((folder + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ != nullptr) return;
  problem_ =
      fmt::format("cannot open {} ({}); put it beside the program, or its folder into LD_LIBRARY_PATH", name, reason);
}

void* SharedLibrary::function(const char* name) const {
  DT_CHECK(handle_ != nullptr, "{}", problem_);
  void* const address = ::dlsym(handle_, name);
  DT_CHECK(address != nullptr, "{} has no function {}: it is of another version than this build needs", name_, name);
  return address;
}

}  // namespace deeptitan

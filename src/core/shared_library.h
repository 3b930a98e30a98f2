#pragma once

#include <string>

namespace deeptitan {

/// A shared library that is opened when it is needed, not when the program starts: the program runs without it where
/// nothing asks for it. It stays open.
class SharedLibrary {
 public:
  /// Looks where the system's loader does (beside the program and in ../lib of its folder, in LD_LIBRARY_PATH, in the
  /// system's folders), then in `folder`. problem() says why it is not there, and where it could be put.
  SharedLibrary(const std::string& name, const std::string& folder);

  const std::string& problem() const { return problem_; }
  /// The address of one of its functions. Throws Error where there is no library or no such function.
  void* function(const char* name) const;
  /// address = function(name).
  template <typename Function>
  void find(Function& address, const char* name) const {
    address = reinterpret_cast<Function>(function(name));
  }

 private:
  void* handle_ = nullptr;
  std::string name_;
  std::string problem_;  // empty: it is open
};

}  // namespace deeptitan

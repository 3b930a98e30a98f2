#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/shared_library.h"

namespace deeptitan::testing {

/// Counts this process's calls of the CUDA driver by name, those of libraries among them, through CUPTI's callbacks
/// (CUDA's CUPTI documentation, "Callback API"; the toolkit has the library, in extras/CUPTI or lib64).
class CudaCalls {
 public:
  using Counts = std::map<std::string, int64_t>;

  static const SharedLibrary& library() {
    static const SharedLibrary of_extras(DT_CUPTI_LIBRARY, DT_CUDA_FOLDER "/extras/CUPTI/lib64");
    if (of_extras.problem().empty()) return of_extras;
    static const SharedLibrary of_package(DT_CUPTI_LIBRARY, DT_CUDA_FOLDER "/lib64");  // where Debian's packages put it
    return of_package;
  }

  CudaCalls() {
    using Subscribe = int(void**, Callback*, void*);
    using Enable = int(uint32_t, void*, int);
    check(function<Subscribe>("cuptiSubscribe")(&subscriber_, &count, this), "cuptiSubscribe");
    check(function<Enable>("cuptiEnableDomain")(1, subscriber_, kDriverApi), "cuptiEnableDomain");
  }
  ~CudaCalls() {
    using Unsubscribe = int(void*);
    function<Unsubscribe>("cuptiUnsubscribe")(subscriber_);
  }
  CudaCalls(const CudaCalls&) = delete;
  CudaCalls& operator=(const CudaCalls&) = delete;

  /// What has been called since the last take().
  Counts take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(counts_, {});
  }

  /// Those that take memory, give it back, or load code.
  static Counts allocations(const Counts& all) {
    return those(all, [](std::string_view name) {
      constexpr std::array kWords = {"cuMemAlloc",    "cuMemFree",      "cuMemHost",    "cuMemCreate",
                                     "cuMemMap",      "cuMemPool",      "cuArray",      "cuModuleLoad",
                                     "cuLibraryLoad", "cuGraphInstant", "cuLinkCreate", "cuStreamCreate"};
      return std::any_of(kWords.begin(), kWords.end(), [&](const char* word) { return name.starts_with(word); });
    });
  }
  /// Those in which the host waits for the device.
  static Counts waits(const Counts& all) {
    return those(all, [](std::string_view name) {
      const bool copies = name.starts_with("cuMemcpy") || name.starts_with("cuMemset");
      return name.find("Synchronize") != name.npos || (copies && name.find("Async") == name.npos);
    });
  }
  static std::string text(const Counts& counts) {
    std::string all;
    for (const auto& [name, count] : counts) all += fmt::format("{}{} {}", all.empty() ? "" : ", ", count, name);
    return all.empty() ? "none" : all;
  }

 private:
  // As cupti_callbacks.h declares them.
  static constexpr int kDriverApi = 1, kEnter = 0;
  struct CallbackData {
    int site;
    const char* function_name;
  };
  using Callback = void(void*, int, uint32_t, const void*);

  template <typename Function>
  static Function* function(const char* name) {
    return reinterpret_cast<Function*>(library().function(name));
  }
  static void check(int status, const char* what) {
    DT_CHECK(status == 0, "{} failed with CUPTI's error {}", what, status);
  }
  static void count(void* self, int /*domain*/, uint32_t /*id*/, const void* data) {
    const auto* call = static_cast<const CallbackData*>(data);
    if (call->site != kEnter) return;
    auto* calls = static_cast<CudaCalls*>(self);
    const std::lock_guard lock(calls->mutex_);
    ++calls->counts_[call->function_name];
  }
  template <typename Wanted>
  static Counts those(const Counts& all, const Wanted& wanted) {
    Counts found;
    std::copy_if(all.begin(), all.end(), std::inserter(found, found.end()),
                 [&](const auto& entry) { return wanted(entry.first); });
    return found;
  }

  void* subscriber_ = nullptr;
  std::mutex mutex_;
  Counts counts_;
};

}  // namespace deeptitan::testing

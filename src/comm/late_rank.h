#pragma once

#include <utility>

#include "core/error.h"

namespace deeptitan {

/// A rank has waited in vain for another, which may itself wait for a third: it ends when the others have had time to
/// say for whom they wait.
class LateRank : public Error {
 public:
  using Error::Error;
};

/// Throws LateRank with a formatted message.
template <typename... Args>
[[noreturn]] void fail_late(fmt::format_string<Args...> format, Args&&... args) {
  throw LateRank(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace deeptitan

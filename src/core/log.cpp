#include "core/log.h"

#include <memory>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "core/shown_text.h"

namespace deeptitan {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto created =
        std::make_shared<spdlog::logger>("deeptitan", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    created->set_pattern("%^%v%$");
    return created;
  }();
  return *instance;
}

}  // namespace

void log_info(std::string_view message) {
  logger().info(printable_message(message));
}

void log_warning(std::string_view message) {
  logger().warn("warning: {}", printable_message(message));
}

void set_log_quiet(bool quiet) {
  logger().set_level(quiet ? spdlog::level::warn : spdlog::level::info);
}

}  // namespace deeptitan

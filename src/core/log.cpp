#include "core/log.h"

#include <memory>
#include <utility>

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

std::function<void()>& before_line() {
  static std::function<void()> clear;
  return clear;
}

void clear_open_line(spdlog::level::level_enum level) {
  if (before_line() && logger().should_log(level)) before_line()();
}

}  // namespace

void log_info(std::string_view message) {
  clear_open_line(spdlog::level::info);
  logger().info(printable_message(message));
}

void log_warning(std::string_view message) {
  clear_open_line(spdlog::level::warn);
  logger().warn("warning: {}", printable_message(message));
}

void set_before_log_line(std::function<void()> clear) {
  before_line() = std::move(clear);
}

void set_log_quiet(bool quiet) {
  logger().set_level(quiet ? spdlog::level::warn : spdlog::level::info);
}

void set_log_silent() {
  logger().set_level(spdlog::level::off);
}

}  // namespace deeptitan

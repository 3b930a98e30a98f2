#include "train/progress_line.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/terminal.h"

namespace deeptitan {
namespace {

constexpr int64_t kFirstLines = 10;
constexpr double kSecondsBetweenLines = 5;

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

ProgressLine::ProgressLine(int64_t steps, double flops_per_token, double peak, bool plain)
    : steps_(steps), flops_per_token_(flops_per_token), peak_(peak), terminal_(!plain && isatty(STDOUT_FILENO) != 0) {
  if (terminal_ && isatty(STDERR_FILENO) != 0) set_before_log_line([this] { clear(); });
}

ProgressLine::~ProgressLine() {
  set_before_log_line({});
}

std::string ProgressLine::format(const StepMetrics& m, double eta_seconds, int columns) const {
  // In the order in which they are shown; those of a higher rank go first where the line is too narrow.
  struct Field {
    int rank;
    std::string text;
    std::string_view before = "  ";
  };
  std::vector<Field> fields = {{0, fmt::format("step {}/{}", m.step, steps_)},
                               {0, fmt::format("loss {:.4f}", m.loss)},
                               {6, fmt::format("lr {:.2e}", m.learning_rate)},
                               {5, fmt::format("|g| {:.2f}", m.gradient_norm)},
                               {3, fmt::format("{:.0f} tok/s", m.tokens_per_second)}};
  if (peak_ > 0) {
    fields.push_back({7, fmt::format("{:.0f} % of peak", 100.0 * m.tokens_per_second * flops_per_token_ / peak_)});
  }
  if (const MoeLayerMetrics* worst = m.worst_moe_layer()) {
    std::string load = fmt::format("load {:.2f}x in layer {}", worst->load_max_over_mean, worst->layer);
    if (worst->experts_without_tokens > 0) load += fmt::format(" ({} idle)", worst->experts_without_tokens);
    fields.push_back({4, std::move(load)});
  }
  if (m.validation) {
    fields.push_back({0, fmt::format("validation {:.4f}", m.validation->loss)});
    fields.push_back({1, fmt::format("({:.3f} bits/byte)", m.validation->bits_per_byte), " "});
  }
  if (m.row_overflows > 0) fields.push_back({0, "run again: experts' rows overflowed"});
  if (m.skipped) fields.push_back({0, "SKIPPED: not finite"});
  fields.push_back({2, fmt::format("ETA {}", format_duration(eta_seconds))});
  const auto joined = [&](int highest) {
    std::string line;
    for (const Field& field : fields) {
      if (field.rank <= highest) line += (line.empty() ? "" : std::string(field.before)) + field.text;
    }
    return line;
  };
  int highest = 7;
  std::string line = joined(highest);
  if (columns == 0) return line;
  while (static_cast<int>(line.size()) > columns && highest > 0) line = joined(--highest);
  return line.substr(0, static_cast<size_t>(columns));
}

void ProgressLine::show(const StepMetrics& metrics, double eta_seconds) {
  // A step that validated keeps its line: those are what one scrolls back for.
  if (terminal_) {
    // The last column stays free: a line that reaches it makes some terminals go on in the next.
    const std::string line = format(metrics, eta_seconds, terminal_width(STDOUT_FILENO) - 1);
    std::printf("\r\033[2K%s%s", line.c_str(), metrics.validation ? "\n" : "");
    open_ = !metrics.validation;
  } else {
    const double now = monotonic_seconds();
    const bool wanted = lines_ < kFirstLines || now - last_line_ >= kSecondsBetweenLines || metrics.validation ||
                        metrics.skipped || metrics.step == steps_;
    if (!wanted) return;
    ++lines_;
    last_line_ = now;
    std::printf("%s\n", format(metrics, eta_seconds).c_str());
  }
  flush();
}

void ProgressLine::clear() {
  if (!open_) return;
  open_ = false;
  std::printf("\r\033[2K");
  std::fflush(stdout);
}

void ProgressLine::flush() {
  if (std::fflush(stdout) == 0 || output_lost_) return;
  output_lost_ = true;
  log_warning("standard output cannot be written any more; the run goes on, and metrics.jsonl has its steps");
}

void ProgressLine::message(const std::string& text) {
  finish();
  std::printf("%s\n", text.c_str());
  flush();
}

void ProgressLine::finish() {
  if (open_) std::printf("\n");
  open_ = false;
  flush();
}

}  // namespace deeptitan

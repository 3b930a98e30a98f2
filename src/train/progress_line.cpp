#include "train/progress_line.h"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

namespace deeptitan {

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

ProgressLine::ProgressLine(int64_t steps, double flops_per_token, double peak)
    : steps_(steps), flops_per_token_(flops_per_token), peak_(peak), terminal_(isatty(STDOUT_FILENO) != 0) {}

std::string ProgressLine::format(const StepMetrics& m, double eta_seconds) const {
  std::string line = fmt::format("step {}/{}  loss {:.4f}  lr {:.2e}  |g| {:.2f}  {:.0f} tok/s", m.step, steps_, m.loss,
                                 m.learning_rate, m.gradient_norm, m.tokens_per_second);
  if (peak_ > 0) line += fmt::format("  {:.0f} % of peak", 100.0 * m.tokens_per_second * flops_per_token_ / peak_);
  if (const MoeLayerMetrics* worst = m.worst_moe_layer()) {
    line += fmt::format("  load {:.2f}x in layer {}", worst->load_max_over_mean, worst->layer);
    if (worst->experts_without_tokens > 0) line += fmt::format(" ({} idle)", worst->experts_without_tokens);
  }
  if (m.validation) {
    line += fmt::format("  validation {:.4f} ({:.3f} bits/byte)", m.validation->loss, m.validation->bits_per_byte);
  }
  if (m.skipped) line += "  SKIPPED: not finite";
  return line + fmt::format("  ETA {}", format_duration(eta_seconds));
}

void ProgressLine::show(const StepMetrics& metrics, double eta_seconds) {
  const std::string line = format(metrics, eta_seconds);
  // A step that validated keeps its line: those are what one scrolls back for.
  if (terminal_) {
    std::printf("\r\033[2K%s%s", line.c_str(), metrics.validation ? "\n" : "");
    open_ = !metrics.validation;
  } else {
    std::printf("%s\n", line.c_str());
  }
  std::fflush(stdout);
}

void ProgressLine::message(const std::string& text) {
  finish();
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void ProgressLine::finish() {
  if (open_) std::printf("\n");
  open_ = false;
  std::fflush(stdout);
}

}  // namespace deeptitan

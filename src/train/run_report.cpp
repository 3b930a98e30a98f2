#include "train/run_report.h"

#include <algorithm>
#include <chrono>

#include <unistd.h>

#include "core/file.h"
#include "core/terminal.h"
#include "train/loss_curve.h"

namespace deeptitan {
namespace {

constexpr int kWidestChart = 160;

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

RunReport::RunReport(const RunConfig& config, RunFolder& folder, int64_t step, const FileDigest& metrics,
                     double flops_per_token, double peak, bool plain)
    : config_(config),
      folder_(folder),
      metrics_(folder.metrics(), step, metrics),
      progress_(config.training.steps, flops_per_token, peak, plain) {
  if (!config.metrics.enable_tensorboard) return;
  tensorboard_.emplace(folder_.tensorboard(), step + 1, wall_time());
  folder_.record(tensorboard_->path());
}

void RunReport::show(const StepMetrics& metrics, double eta_seconds) {
  metrics_.write(metrics);
  if (tensorboard_) tensorboard_->write(metrics.step, wall_time(), scalars_of(metrics));
  progress_.show(metrics, eta_seconds);
}

void RunReport::draw_loss_curve() {
  const LossCurve curve = read_loss_curve(folder_.metrics());
  const std::string terminal = render_loss_terminal(curve, std::min(terminal_width(STDOUT_FILENO), kWidestChart), 18);
  if (!terminal.empty()) progress_.message(terminal);
  write_file(folder_.loss_svg(), render_loss_svg(curve, config_.job.description.empty() ? config_.job.dump_folder
                                                                                        : config_.job.description));
}

}  // namespace deeptitan

#include "train/step_report.h"

#include <cmath>

#include "ops/expert_load.h"

namespace deeptitan {

static_assert(sizeof(StepOutput) % sizeof(double) == 0);

StepReport::StepReport(Device device, int64_t layers)
    : memory("reports", device, MemoryKind::kPinned,
             static_cast<int64_t>(sizeof(StepOutput) + layers * (1 + kLoadSummaryNumbers) * sizeof(double))),
      output(reinterpret_cast<StepOutput*>(memory.data())),
      balance_losses(reinterpret_cast<double*>(output + 1)),
      load_summaries(balance_losses + layers),
      copied(device) {}

void StepReport::copy(const Stream& stream, const StepOutput* on_device, const StepStatistics& statistics) {
  stream.copy(output, on_device, sizeof *output);
  const Tensor& losses = statistics.balance_losses();
  const Tensor& loads = statistics.load_summaries();
  stream.copy(balance_losses, losses.raw(), losses.bytes());
  stream.copy(load_summaries, loads.raw(), loads.bytes());
  copied.record(stream);
}

StepResult StepReport::result(std::span<const int64_t> expert_layers, int64_t experts, double auxiliary_weight) const {
  StepResult result;
  result.step = input.step;
  result.loss = output->loss_sum * input.target_scale;
  result.mtp_loss = output->mtp_loss_sum * input.target_scale;
  result.gradient_norm = std::sqrt(output->gradient_squares);
  result.finite = output->valid != 0;
  for (const int64_t layer : expert_layers) {
    const double* load = load_summaries + layer * kLoadSummaryNumbers;
    const double mean = load[kWholeLoad] / static_cast<double>(experts);
    MoeLayerMetrics& metrics = result.moe_layers.emplace_back();
    metrics.layer = layer;
    metrics.load_max_over_mean = mean == 0 ? 0.0 : load[kLargestLoad] / mean;
    metrics.experts_without_tokens = static_cast<int64_t>(load[kIdleExperts]);
    metrics.bias_range = static_cast<float>(load[kHighestBias]) - static_cast<float>(load[kLowestBias]);
    if (auxiliary_weight > 0) metrics.aux_loss = balance_losses[layer] / auxiliary_weight / tokens;
  }
  return result;
}

}  // namespace deeptitan

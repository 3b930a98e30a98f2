// A layer of experts on several GPUs of one host, forward and backward, against its products alone: threads as ranks, a
// GPU each, even routing. Prints the medians of the first rank.
//
//   moe_layer_bench [RANKS [TOKENS [HIDDEN [WIDTH [EXPERTS [TOP_K]]]]]]     V3: 4 4096 7168 2048 256 8

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "comm/host_communicator.h"
#include "comm/thread_ranks.h"
#include "core/captured_graph.h"
#include "core/device_choice.h"
#include "core/op_profile.h"
#include "core/transfer.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "model/moe/mixture_of_experts.h"
#include "model/moe/on_device_dispatcher.h"
#include "support/thread_memory.h"

namespace deeptitan {
namespace {

struct Sizes {
  int ranks = 4;
  int64_t tokens = 4096;
  int64_t hidden = 7168;
  int64_t width = 2048;
  int experts = 256;
  int top_k = 8;
};

constexpr int kRuns = 15;

// Normal enough: what is random are the first values, which repeat.
class RepeatedValues final : public ParameterSource {
 public:
  explicit RepeatedValues(float range) : values_(size_t{1} << 20) {
    uint32_t state = 1;
    for (float& v : values_) {
      state = state * 1664525u + 1013904223u;
      v = range * (static_cast<float>(state >> 8) / static_cast<float>(1 << 23) - 1.0f);
    }
  }
  void read(const Parameter& /*parameter*/, const FileTensor& tensor, DType dtype, void* values) const override {
    for (int64_t i = 0; i < tensor.numel(); i += std::ssize(values_)) {
      const int64_t n = std::min<int64_t>(std::ssize(values_), tensor.numel() - i);
      if (dtype == DType::kF32) {
        std::copy_n(values_.begin(), n, static_cast<float*>(values) + i);
      } else {
        std::transform(values_.begin(), values_.begin() + n, static_cast<bfloat16*>(values) + i,
                       [](float v) { return to_bfloat16(v); });
      }
    }
  }

 private:
  std::vector<float> values_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

void run_rank(const Sizes& sizes, Transport& transport) {
  std::vector<int> all(static_cast<size_t>(sizes.ranks));
  std::iota(all.begin(), all.end(), 0);
  HostCommunicator ep(transport, "ep", all, 0, 100);
  const Device device{DeviceKind::kCuda, ep.rank()};
  use_device(device);
  testing::ThreadMemory memory(device, ep);
  ExpertsPlan plan;
  plan.router = {.scoring = RouterScoring::kSigmoid, .experts = sizes.experts, .top_k = sizes.top_k};
  plan.router.normalize_top_k = true;
  plan.width = sizes.width;
  plan.router_weight = "gate";
  plan.gate_up = "experts.{}.gate_up_proj";
  plan.gate = "experts.{}.gate_proj";
  plan.up = "experts.{}.up_proj";
  plan.down = "experts.{}.down_proj";
  ParameterList parameters(true, DType::kBF16, experts_of_rank(sizes.experts, ep));
  const MixtureOfExperts layer(parameters, plan, sizes.hidden, 0, 0.0,
                               std::make_unique<OnDeviceDispatcher>(memory, plan.router, 1.0));

  Arena weights("weights", device), window("window", device), workspace("workspace", device);
  ExecutionContext ctx;
  ctx.device = device;
  ctx.workspace = &workspace;
  Tensor x, d_out, out, d_x, state;
  std::unique_ptr<Record> record;
  RouteRecord routes{.replay = true, .expert_index = {Tensor()}};
  const auto take = [&] {
    parameters.plan_values(weights);
    parameters.plan_prepared(weights);
    parameters.plan_gradients(weights);
    for (Tensor* t : {&x, &d_out, &out, &d_x}) *t = weights.take(DType::kBF16, {sizes.tokens, sizes.hidden});
    state = weights.take(DType::kU8, {sizeof(StepState)});
    ctx.state = static_cast<StepState*>(state.raw());
    routes.expert_index[0] = weights.take(DType::kI32, {sizes.tokens, sizes.top_k});
    record = layer.make_record({window, window}, sizes.tokens);
  };
  BatchLayout batch;
  batch.capacity = {.tokens = sizes.tokens, .sequences = 1, .max_query = sizes.tokens, .max_visible = sizes.tokens};
  const ForwardContext forward{.batch = batch, .routes = &routes};
  const auto run = [&] {
    for (Parameter& p : parameters.all()) p.gradient_written = false;
    layer.forward(ctx, forward, out, x, record.get());
    layer.backward_input(ctx, forward, d_x, d_out, x, *record);
    layer.backward_weights(ctx, forward, d_out, x, *record);
  };
  ctx.planning = true;
  take();
  run();
  ctx.planning = false;
  memory.allocate(window.peak() + workspace.peak());
  window.adopt(memory.data(), window.peak());
  workspace.adopt(memory.data() + window.peak(), workspace.peak());
  weights.allocate();
  ctx.compute = Stream(device);
  ctx.communication = Stream(device);
  take();
  parameters.load(ctx, std::make_shared<RepeatedValues>(0.02f));
  std::vector<int32_t> choices(static_cast<size_t>(sizes.tokens * sizes.top_k));
  const int64_t stride = sizes.experts / sizes.top_k;
  for (int64_t t = 0; t < sizes.tokens; ++t) {
    for (int64_t k = 0; k < sizes.top_k; ++k) {
      choices[t * sizes.top_k + k] = static_cast<int32_t>((t * 7 + k * stride) % sizes.experts);
    }
  }
  upload<int32_t>(routes.expert_index[0], choices);
  std::vector<bfloat16> rows(static_cast<size_t>(x.numel()));
  for (size_t i = 0; i < rows.size(); ++i)
    rows[i] = to_bfloat16(0.5f * static_cast<float>(i * 2654435761u % 1024) / 512.0f - 0.5f);
  for (const Tensor& t : {x, d_out}) copy_tensor(t, Tensor(rows.data(), DType::kBF16, {t.numel()}));

  run();
  ctx.compute.synchronize();
  CapturedGraph graph(ctx.compute, run);
  std::vector<double> whole;
  Event begin(device), end(device);
  for (int i = 0; i < kRuns; ++i) {
    ExecutionContext host;
    ep.barrier(host);
    begin.record(ctx.compute);
    graph.run();
    end.record(ctx.compute);
    end.synchronize();
    if (i > 2) whole.push_back(end.seconds_since(begin));
  }
  std::map<std::string, std::vector<double>> of_ops;
  for (int i = 0; i < kRuns; ++i) {
    ExecutionContext host;
    ep.barrier(host);
    OpProfile profile;
    ctx.profile = &profile;
    run();
    profile.finish();
    ctx.profile = nullptr;
    if (i <= 2) continue;
    for (const auto& [name, entry] : profile.entries) of_ops[name].push_back(entry.seconds);
  }
  memory.queue_check(ctx.compute);
  ctx.compute.synchronize();
  memory.check();
  if (ep.rank() != 0) return;
  double products = 0;
  for (const auto& [name, seconds] : of_ops) {
    if (name.find("grouped") != std::string::npos && name.find("swiglu") == std::string::npos) {
      products += median(seconds);
    }
  }
  std::printf("%d ranks, %ld tokens, %ld x %ld, %d experts, top %d: %.3f ms, products alone %.3f ms: %.3f times\n",
              sizes.ranks, sizes.tokens, sizes.hidden, sizes.width, sizes.experts, sizes.top_k, 1e3 * median(whole),
              1e3 * products, median(whole) / products);
  for (const auto& [name, seconds] : of_ops) std::printf("  %-32s %8.3f ms\n", name.c_str(), 1e3 * median(seconds));
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  using deeptitan::Sizes;
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  Sizes sizes;
  const auto argument = [&](int i, int64_t otherwise) { return i < argc ? std::atol(argv[i]) : otherwise; };
  sizes.ranks = static_cast<int>(argument(1, sizes.ranks));
  sizes.tokens = argument(2, sizes.tokens);
  sizes.hidden = argument(3, sizes.hidden);
  sizes.width = argument(4, sizes.width);
  sizes.experts = static_cast<int>(argument(5, sizes.experts));
  sizes.top_k = static_cast<int>(argument(6, sizes.top_k));
  try {
    deeptitan::run_thread_ranks(sizes.ranks,
                                [&](deeptitan::Transport& transport) { deeptitan::run_rank(sizes, transport); });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

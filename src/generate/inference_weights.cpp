#include "generate/inference_weights.h"

#include <algorithm>
#include <vector>

#include "checkpoint/convert_elements.h"
#include "core/error.h"
#include "core/random.h"

namespace deeptitan {
namespace {

// Gives a parameter the fp32 values `parts`, one matrix or vector an expert, and prepares what is made from it. Nothing
// refers to `parts` afterwards.
void fill(ExecutionContext& ctx, ParameterList& list, Parameter& parameter, const std::vector<Tensor>& parts) {
  if (!parameter.spec.direct) {
    parameter.parts = parts;
    list.refresh(ctx, parameter);
    parameter.parts.clear();
    return;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    convert_elements(parts[i].raw(), DType::kF32, parameter.parts[i].raw(), parameter.value.dtype(), parts[i].numel());
  }
  list.refresh(ctx, parameter);
}

}  // namespace

void copy_weights(ExecutionContext& ctx, const DeepseekModel& trained, DeepseekModel& model) {
  const std::deque<Parameter>& sources = trained.parameters().all();
  for (Parameter& p : model.parameters().all()) {
    const auto source =
        std::find_if(sources.begin(), sources.end(), [&](const Parameter& s) { return s.spec.name == p.spec.name; });
    DT_CHECK(source != sources.end() && source->spec.shape == p.spec.shape,
             "the model in training has no parameter {} of the same shape", p.spec.name);
    fill(ctx, model.parameters(), p, source->parts);
  }
}

void draw_weights(ExecutionContext& ctx, uint64_t seed, DeepseekModel& model) {
  std::vector<float> values;
  for (Parameter& p : model.parameters().all()) {
    values.resize(p.numel());
    draw_initial_values(p.spec, seed, model.config().initializer_range, values.data());
    const std::vector<int64_t> shape = p.part_shape();
    const int64_t count = p.stacked() ? p.spec.shape[0] : 1;
    std::vector<Tensor> parts;
    for (int64_t i = 0; i < count; ++i) {
      float* part = values.data() + i * (p.numel() / count);
      parts.push_back(shape.size() == 1 ? Tensor(part, DType::kF32, {shape[0]})
                                        : Tensor(part, DType::kF32, {shape[0], shape[1]}));
    }
    fill(ctx, model.parameters(), p, parts);
  }
}

}  // namespace deeptitan

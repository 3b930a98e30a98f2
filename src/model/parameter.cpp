#include "model/parameter.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace deeptitan {
namespace {

Tensor take(Arena& arena, DType dtype, const std::vector<int64_t>& shape) {
  switch (shape.size()) {
    case 1:
      return arena.take(dtype, {shape[0]});
    case 2:
      return arena.take(dtype, {shape[0], shape[1]});
    case 3:
      return arena.take(dtype, {shape[0], shape[1], shape[2]});
    default:
      fail("a parameter has 1 to 3 dimensions, found {}", shape.size());
  }
}

// The matrices of a value: one an expert, or the whole.
std::vector<Tensor> parts_of(const Parameter& parameter) {
  const Tensor& value = parameter.value;
  if (!parameter.stacked()) return {value};
  std::vector<Tensor> parts;
  for (int64_t e = 0; e < value.size(0); ++e) {
    const Tensor part = value.rows(e, e + 1);
    parts.push_back(value.rank() == 3 ? part.reshape({value.size(1), value.size(2)}) : part.reshape({value.size(1)}));
  }
  return parts;
}

}  // namespace

int64_t Parameter::numel() const {
  int64_t product = 1;
  for (const int64_t extent : spec.shape) product *= extent;
  return product;
}

std::vector<std::string> Parameter::file_names() const {
  const size_t place = spec.name.find("{}");
  if (place == std::string::npos) return {spec.name};
  std::vector<std::string> names;
  for (int64_t e = 0; e < spec.shape[0]; ++e) {
    names.push_back(spec.name.substr(0, place) + std::to_string(e) + spec.name.substr(place + 2));
  }
  return names;
}

std::vector<int64_t> Parameter::part_shape() const {
  return stacked() ? std::vector<int64_t>(spec.shape.begin() + 1, spec.shape.end()) : spec.shape;
}

Parameter* ParameterList::declare(ParameterSpec spec) {
  DT_CHECK(find(spec.name) == nullptr, "parameter {} is declared twice", spec.name);
  parameters_.push_back(Parameter{.spec = std::move(spec), .value = {}, .gradient = {}, .parts = {}});
  return &parameters_.back();
}

PreparedWeight* ParameterList::prepare(const Parameter* parameter, DType operand, bool for_backward_input) {
  PreparedWeight weight;
  const auto& shape = parameter->spec.shape;
  weight.outputs = shape[shape.size() - 2];
  weight.inputs = shape.back();
  weight.operand = operand;
  weight.for_backward_input = for_backward_input;
  weight.parts.resize(shape.size() == 3 ? shape[0] : 1);
  prepared_.push_back({parameter, {}, std::move(weight)});
  return &prepared_.back().weight;
}

PreparedWeight* ParameterList::prepare_heads(const Parameter* parameter, DType operand, const HeadRows& rows,
                                             bool transposed) {
  PreparedWeight weight;
  weight.outputs = rows.count;
  weight.inputs = parameter->spec.shape[1];
  weight.operand = operand;
  weight.for_forward = !transposed;
  weight.for_backward_input = transposed;
  weight.parts.resize(rows.heads);
  prepared_.push_back({parameter, rows, std::move(weight)});
  return &prepared_.back().weight;
}

void ParameterList::plan_values(Arena& arena) {
  for (Parameter& p : parameters_) {
    if (use_ == ModelUse::kInference && !p.spec.direct) continue;
    const bool vector = p.spec.shape.size() == 1;
    p.value = take(arena, use_ == ModelUse::kTraining || vector ? DType::kF32 : compute_, p.spec.shape);
    p.parts = parts_of(p);
  }
}

void ParameterList::plan_gradients(Arena& arena) {
  for (Parameter& p : parameters_) {
    if (p.spec.trained && !p.frozen) p.gradient = take(arena, DType::kF32, p.spec.shape);
  }
}

void ParameterList::plan_prepared(Arena& arena) {
  for (Prepared& p : prepared_) plan_prepared_weight(p.weight, arena);
}

void ParameterList::bind(Prepared& p) {
  const std::vector<Tensor>& parts = p.parameter->parts;
  DT_CHECK(!parts.empty(), "parameter {} has no value yet", p.parameter->spec.name);
  if (p.rows.heads == 0) {
    p.weight.parts = parts;
    return;
  }
  for (int64_t h = 0; h < p.rows.heads; ++h) {
    const int64_t first = h * p.rows.stride + p.rows.first;
    p.weight.parts[h] = parts[0].rows(first, first + p.rows.count);
  }
}

void ParameterList::refresh(ExecutionContext& ctx) {
  for (Prepared& p : prepared_) {
    bind(p);
    refresh_prepared_weight(ctx, p.weight);
  }
}

void ParameterList::refresh(ExecutionContext& ctx, const Parameter& parameter) {
  for (Prepared& p : prepared_) {
    if (p.parameter != &parameter) continue;
    bind(p);
    refresh_prepared_weight(ctx, p.weight);
  }
}

void draw_initial_values(const ParameterSpec& spec, uint64_t seed, double range, float* values) {
  int64_t count = 1;
  for (const int64_t extent : spec.shape) count *= extent;
  switch (spec.initialization) {
    case Initialization::kNormal:
      fill_normal(values, count, random_key(spec.name, seed), static_cast<float>(range));
      break;
    case Initialization::kOnes:
      std::fill_n(values, count, 1.0f);
      break;
    case Initialization::kZeros:
      std::fill_n(values, count, 0.0f);
      break;
  }
}

void ParameterList::initialize(uint64_t seed, double range) {
  for (Parameter& p : parameters_) draw_initial_values(p.spec, seed, range, p.value.host<float>());
}

Parameter* ParameterList::find(std::string_view name) {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const Parameter& p) { return p.spec.name == name; });
  return found == parameters_.end() ? nullptr : &*found;
}

int64_t ParameterList::total() const {
  int64_t sum = 0;
  for (const Parameter& p : parameters_) sum += p.numel();
  return sum;
}

}  // namespace deeptitan

#include "model/parameter.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "checkpoint/convert_elements.h"
#include "core/device_memory.h"
#include "core/error.h"
#include "core/random.h"
#include "core/transfer.h"
#include "model/upload_parameters.h"

namespace deeptitan {
namespace {

int64_t product_of(const std::vector<int64_t>& extents) {
  return std::accumulate(extents.begin(), extents.end(), int64_t{1}, std::multiplies<>());
}

Tensor shaped(const Tensor& elements, const std::vector<int64_t>& shape) {
  switch (shape.size()) {
    case 1:
      return elements.reshape({shape[0]});
    case 2:
      return elements.reshape({shape[0], shape[1]});
    case 3:
      return elements.reshape({shape[0], shape[1], shape[2]});
    default:
      fail("a parameter has 1 to 3 dimensions, found {}", shape.size());
  }
}

std::vector<Tensor> bands_of(const Tensor& matrix, const HeadRows& rows) {
  std::vector<Tensor> bands;
  for (int64_t h = 0; h < rows.heads; ++h) {
    const int64_t first = h * rows.stride + rows.first;
    bands.push_back(matrix.rows(first, first + rows.count));
  }
  return bands;
}

void* element_at(const Tensor& value, int64_t offset) {
  return static_cast<std::byte*>(value.raw()) + offset * static_cast<int64_t>(dtype_size(value.dtype()));
}

std::string with_expert(const std::string& pattern, int64_t expert) {
  const size_t place = pattern.find("{}");
  if (place == std::string::npos) return pattern;
  return pattern.substr(0, place) + std::to_string(expert) + pattern.substr(place + 2);
}

// A matrix whose second layout is smaller than this is kept in both: making it anew for each backward would show.
constexpr int64_t kLargeMatrix = 1 << 20;

BackwardLayout backward_layout(bool training, const Parameter& parameter, const PreparedWeight& weight) {
  if (!training) return BackwardLayout::kNone;
  if (parameter.residency != Residency::kTrained) return BackwardLayout::kDerived;
  const bool large = !parameter.stacked() && weight.outputs * weight.inputs >= kLargeMatrix;
  return large ? BackwardLayout::kDerived : BackwardLayout::kKept;
}

}  // namespace

int64_t FileTensor::numel() const {
  return product_of(shape);
}

int64_t Parameter::numel() const {
  return product_of(shape);
}

int64_t Parameter::first_in_whole() const {
  return stacked() && owned.count > 0 ? owned.first * (numel() / owned.count) : 0;
}

int64_t Parameter::whole_numel() const {
  return product_of(spec.shape);
}

std::vector<FileTensor> Parameter::file_tensors() const {
  const size_t row_dimension = stacked() ? 1 : 0;
  const int64_t row_elements =
      product_of({spec.shape.begin() + static_cast<std::ptrdiff_t>(row_dimension) + 1, spec.shape.end()});
  const int64_t stack_elements = row_elements * spec.shape[row_dimension];
  std::vector<FileTensor> tensors;
  for (int64_t e = 0; e < (stacked() ? owned.count : 1); ++e) {
    int64_t row = 0;
    for (const ParameterPiece& piece : spec.pieces) {
      FileTensor tensor;
      tensor.name = with_expert(piece.name, owned.first + e);
      tensor.shape.assign(spec.shape.begin() + static_cast<std::ptrdiff_t>(row_dimension), spec.shape.end());
      tensor.shape[0] = piece.rows;
      tensor.offset = e * stack_elements + row * row_elements;
      tensor.stream = piece.name;
      tensor.first_index = (owned.first + e) * piece.rows * row_elements;
      tensors.push_back(std::move(tensor));
      row += piece.rows;
    }
  }
  return tensors;
}

std::vector<std::string> Parameter::file_names() const {
  std::vector<std::string> names;
  for (int64_t e = 0; e < (stacked() ? spec.shape[0] : 1); ++e) {
    for (const ParameterPiece& piece : spec.pieces) names.push_back(with_expert(piece.name, e));
  }
  return names;
}

Tensor ParameterSource::view(const Parameter& /*parameter*/, const FileTensor& /*tensor*/) const {
  return {};
}

BlockQuantized ParameterSource::quantized(const Parameter& /*parameter*/, const FileTensor& /*tensor*/) const {
  return {};
}

void ParameterSource::release(const Parameter& /*parameter*/, const FileTensor& /*tensor*/) const {}

void ParameterSource::read_rows(const Parameter& parameter, const FileTensor& tensor, int64_t /*first*/,
                                int64_t /*rows*/, DType /*dtype*/, void* /*values*/) const {
  fail("rows of tensor {} of {} cannot be read from this source", tensor.name, parameter.spec.name);
}

void DrawnValues::read(const Parameter& parameter, const FileTensor& tensor, DType dtype, void* values) const {
  draw(parameter, tensor, 0, tensor.numel(), dtype, values);
}

void DrawnValues::read_rows(const Parameter& parameter, const FileTensor& tensor, int64_t first, int64_t rows,
                            DType dtype, void* values) const {
  const int64_t columns = tensor.numel() / tensor.shape[0];
  draw(parameter, tensor, first * columns, rows * columns, dtype, values);
}

void DrawnValues::draw(const Parameter& parameter, const FileTensor& tensor, int64_t first, int64_t count, DType dtype,
                       void* values) const {
  std::vector<float> rounded;
  float* drawn = static_cast<float*>(values);
  if (dtype != DType::kF32) {
    rounded.resize(count);
    drawn = rounded.data();
  }
  switch (parameter.spec.initialization) {
    case Initialization::kNormal:
      fill_normal(drawn, count, random_key(tensor.stream, seed_), static_cast<float>(range_),
                  static_cast<uint64_t>(tensor.first_index + first));
      break;
    case Initialization::kOnes:
      std::fill_n(drawn, count, 1.0f);
      break;
    case Initialization::kZeros:
      std::fill_n(drawn, count, 0.0f);
      break;
  }
  if (dtype != DType::kF32) convert_elements(drawn, DType::kF32, values, dtype, count);
}

Parameter* ParameterList::declare(ParameterSpec spec) {
  DT_CHECK(find(spec.name) == nullptr, "parameter {} is declared twice", spec.name);
  Parameter p{.spec = std::move(spec), .owned = {}, .shape = {}, .value = {}, .gradient = {}};
  p.shape = p.spec.shape;
  const size_t row_dimension = p.stacked() ? 1 : 0;
  if (p.spec.pieces.empty()) p.spec.pieces = {{p.spec.name, p.spec.shape[row_dimension]}};
  int64_t rows = 0;
  for (const ParameterPiece& piece : p.spec.pieces) rows += piece.rows;
  DT_CHECK(rows == p.spec.shape[row_dimension], "parameter {} has {} rows, its pieces have {}", p.spec.name,
           p.spec.shape[row_dimension], rows);
  if (p.stacked()) {
    const int64_t all = p.spec.shape[0];
    p.owned = {experts_.first, experts_.count < 0 ? all - experts_.first : experts_.count};
    DT_CHECK(0 <= p.owned.first && 0 <= p.owned.count && p.owned.first + p.owned.count <= all,
             "experts {} to {} were asked for; {} has experts 0 to {}", p.owned.first,
             p.owned.first + p.owned.count - 1, p.spec.name, all - 1);
    p.shape[0] = p.owned.count;
  }
  const Residency unprepared = p.spec.direct || !p.spec.trained ? Residency::kDirect : Residency::kPreparedOnly;
  p.residency = training_ && p.spec.trained ? Residency::kTrained : unprepared;
  parameters_.push_back(std::move(p));
  return &parameters_.back();
}

void ParameterList::freeze(Parameter& parameter) {
  parameter.frozen = true;
  if (parameter.residency != Residency::kTrained) return;
  parameter.residency = parameter.spec.direct ? Residency::kDirect : Residency::kFrozenPrepared;
}

PreparedWeight* ParameterList::prepare(const Parameter* parameter, DType activations) {
  const auto& shape = parameter->shape;
  PreparedWeight weight;
  weight.groups = shape.size() == 3 ? shape[0] : 1;
  weight.outputs = shape[shape.size() - 2];
  weight.inputs = shape.back();
  weight.activations = activations;
  if (parameter->spec.placement == ParameterPlacement::kExpert) weight.strategy = expert_products_;
  prepared_.push_back({parameter, {}, weight});
  return &prepared_.back().weight;
}

PreparedWeight* ParameterList::prepare_heads(const Parameter* parameter, DType activations, const HeadRows& rows,
                                             bool transposed) {
  PreparedWeight weight;
  weight.groups = rows.heads;
  weight.outputs = rows.count;
  weight.inputs = parameter->shape[1];
  weight.activations = activations;
  weight.for_forward = !transposed;
  weight.backward_layout = transposed ? BackwardLayout::kKept : BackwardLayout::kNone;
  prepared_.push_back({parameter, rows, weight});
  return &prepared_.back().weight;
}

void ParameterList::cut_buckets(const Arena& arena) {
  const int64_t alignment = memory_alignment(arena.device()) / static_cast<int64_t>(sizeof(float));
  if (buckets_.empty()) buckets_ = cut_into_buckets(parameters_, alignment, bucket_elements_, bucket_windows_);
}

Tensor ParameterList::in_bucket(const Tensor& bucket, const ParameterBucket::Member& member) const {
  const Parameter& p = parameters_[member.parameter];
  return shaped(bucket.rows(member.offset, member.offset + p.numel()), p.shape);
}

void ParameterList::plan_values(Arena& arena) {
  cut_buckets(arena);
  for (ParameterBucket& bucket : buckets_) {
    bucket.value = arena.take(DType::kF32, {bucket.numel});
    for (const auto& member : bucket.members) parameters_[member.parameter].value = in_bucket(bucket.value, member);
  }
  for (Parameter& p : parameters_) {
    if (p.residency != Residency::kDirect) continue;
    p.value = shaped(arena.take(p.shape.size() == 1 ? DType::kF32 : compute_, {p.numel()}), p.shape);
  }
}

void ParameterList::plan_gradients(Arena& arena) {
  cut_buckets(arena);
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const Tensor memory = arena.take(DType::kF32, {buckets_[b].numel});
    bind_gradient(b, memory, memory);
  }
}

void ParameterList::bind_gradient(size_t bucket, const Tensor& memory, const Tensor& kept) {
  buckets_[bucket].gradient = memory;
  buckets_[bucket].kept = kept;
  for (const auto& member : buckets_[bucket].members) {
    parameters_[member.parameter].gradient = in_bucket(memory, member);
  }
}

void ParameterList::plan_prepared(Arena& arena) {
  for (Prepared& p : prepared_) {
    if (p.rows.heads == 0) p.weight.backward_layout = backward_layout(training_, *p.parameter, p.weight);
    plan_prepared_weight(p.weight, arena);
  }
}

void ParameterList::plan_preparing(ExecutionContext& ctx) const {
  for (const Prepared& p : prepared_) deeptitan::plan_preparing(ctx, p.weight);
}

void ParameterList::prepare_from_value(ExecutionContext& ctx, Prepared& p) const {
  const Tensor& value = p.parameter->value;
  if (p.rows.heads > 0) {
    prepare_weight(ctx, p.weight, 0, bands_of(value, p.rows));
    return;
  }
  std::vector<Tensor> matrices;
  for (int64_t g = 0; g < p.weight.groups; ++g) {
    const Tensor part = value.rank() == 3 ? value.rows(g, g + 1) : value;
    matrices.push_back(part.reshape({p.weight.outputs, p.weight.inputs}));
  }
  prepare_weight(ctx, p.weight, 0, matrices);
}

void ParameterList::prepare_group(ExecutionContext& ctx, const Parameter& parameter, int64_t group,
                                  std::span<const Tensor> matrices) {
  for (Prepared& p : prepared_) {
    if (p.parameter != &parameter) continue;
    if (p.rows.heads == 0) {
      prepare_weight(ctx, p.weight, group, matrices);
      continue;
    }
    DT_CHECK(matrices.size() == 1, "{}: heads are prepared from one tensor, found {}", parameter.spec.name,
             matrices.size());
    prepare_weight(ctx, p.weight, 0, bands_of(matrices.front(), p.rows));
  }
}

// Group by group, where a file has the very words that the format holds; whether it has.
bool ParameterList::prepare_as_stored(ExecutionContext& ctx, const Parameter& parameter, const ParameterSource& source,
                                      const std::vector<FileTensor>& tensors) {
  const auto is_of = [&](const Prepared& p) { return p.parameter == &parameter; };
  const auto found = std::find_if(prepared_.begin(), prepared_.end(), is_of);
  if (found == prepared_.end() || std::count_if(prepared_.begin(), prepared_.end(), is_of) != 1) return false;
  std::vector<BlockQuantized> matrices;
  matrices.reserve(tensors.size());
  for (const FileTensor& tensor : tensors) matrices.push_back(source.quantized(parameter, tensor));
  const size_t pieces = parameter.spec.pieces.size();
  const auto group = [&](size_t first) { return std::span<const BlockQuantized>(matrices).subspan(first, pieces); };
  for (size_t first = 0; first < tensors.size(); first += pieces) {
    if (!takes_as_stored(found->weight, group(first))) return false;
  }
  for (size_t first = 0; first < tensors.size(); first += pieces) {
    prepare_weight_as_stored(ctx, found->weight, static_cast<int64_t>(first / pieces), group(first));
  }
  return true;
}

// Straight from where the values lie, such as a mapped file; what does not lie there as f32 or bf16 goes through the
// memory of one expert.
void ParameterList::prepare_from_source(ExecutionContext& ctx, const Parameter& parameter,
                                        const ParameterSource& source) {
  const std::vector<FileTensor> tensors = parameter.file_tensors();
  if (prepare_as_stored(ctx, parameter, source, tensors)) {
    for (const FileTensor& tensor : tensors) source.release(parameter, tensor);
    return;
  }
  std::vector<Tensor> views;
  views.reserve(tensors.size());
  for (const FileTensor& tensor : tensors) views.push_back(source.view(parameter, tensor));
  const bool lie_alike = std::all_of(views.begin(), views.end(), [&](const Tensor& view) {
    return view.defined() && view.dtype() == views.front().dtype();
  });
  if (lie_alike) {
    prepare_group(ctx, parameter, 0, views);
  } else {
    const size_t pieces = parameter.spec.pieces.size();
    std::vector<float> staged;
    std::vector<Tensor> matrices(pieces);
    for (size_t first = 0; first < tensors.size(); first += pieces) {
      staged.resize(parameter.numel() * pieces / tensors.size());
      for (size_t i = 0; i < pieces; ++i) {
        const FileTensor& tensor = tensors[first + i];
        float* values = staged.data() + (tensor.offset - tensors[first].offset);
        source.read(parameter, tensor, DType::kF32, values);
        matrices[i] = Tensor(values, DType::kF32, {tensor.shape[0], tensor.shape[1]});
      }
      prepare_group(ctx, parameter, static_cast<int64_t>(first / pieces), matrices);
    }
  }
  for (const FileTensor& tensor : tensors) source.release(parameter, tensor);
}

// Straight to where they lie on a device; false where they lie on the host, where the source has no rows, or where a
// weight is not prepared as its rows.
bool ParameterList::upload(ExecutionContext& ctx, const ParameterSource& source) {
  if (ctx.device.kind == DeviceKind::kCpu || !source.reads_rows()) return false;
  std::vector<ParameterUpload> uploads;
  const auto add = [&](const Parameter& parameter, const Tensor& to, const HeadRows& heads) {
    for (FileTensor& tensor : parameter.file_tensors()) {
      void* place = element_at(to, tensor.offset);
      uploads.push_back({&parameter, std::move(tensor), to.dtype(), static_cast<std::byte*>(place), heads});
    }
  };
  for (const Parameter& parameter : parameters_) {
    if (parameter.value.defined()) add(parameter, parameter.value, {});
  }
  for (const Prepared& p : prepared_) {
    if (p.parameter->value.defined()) continue;
    if (!is_rows(p.weight.format)) return false;
    DT_CHECK(p.rows.heads == 0 || p.parameter->spec.pieces.size() == 1,
             "{}: heads are prepared from one tensor, found {}", p.parameter->spec.name,
             p.parameter->spec.pieces.size());
    add(*p.parameter, p.weight.forward.defined() ? p.weight.forward : p.weight.backward_input, p.rows);
  }
  upload_parameters(ctx.device, source, uploads);
  for (Prepared& p : prepared_) {
    if (p.parameter->value.defined()) prepare_from_value(ctx, p);
  }
  return true;
}

void ParameterList::load(ExecutionContext& ctx, std::shared_ptr<const ParameterSource> source) {
  // Whether everything lies in memory in fp32.
  const bool complete = std::all_of(parameters_.begin(), parameters_.end(), [](const Parameter& parameter) {
    return parameter.value.defined() && parameter.value.dtype() == DType::kF32;
  });
  if (!upload(ctx, *source)) load_one_by_one(ctx, *source);
  source_ = training_ && !complete ? std::move(source) : nullptr;
}

void ParameterList::load_one_by_one(ExecutionContext& ctx, const ParameterSource& source) {
  std::vector<std::byte> staged;
  for (Parameter& parameter : parameters_) {
    if (!parameter.value.defined()) {
      prepare_from_source(ctx, parameter, source);
      continue;
    }
    for (const FileTensor& tensor : parameter.file_tensors()) {
      const DType dtype = parameter.value.dtype();
      void* place = element_at(parameter.value, tensor.offset);
      if (parameter.value.device().kind == DeviceKind::kCpu) {
        source.read(parameter, tensor, dtype, place);
        continue;
      }
      staged.resize(static_cast<size_t>(tensor.numel()) * dtype_size(dtype));
      source.read(parameter, tensor, dtype, staged.data());
      copy_tensor(Tensor(place, dtype, {tensor.numel()}, parameter.value.device()),
                  Tensor(staged.data(), dtype, {tensor.numel()}));
    }
    for (Prepared& p : prepared_) {
      if (p.parameter == &parameter) prepare_from_value(ctx, p);
    }
  }
}

const ParameterList::Prepared* ParameterList::find_rows_in_order(const Parameter& parameter) const {
  const auto found = std::find_if(prepared_.begin(), prepared_.end(), [&](const Prepared& p) {
    return p.parameter == &parameter && p.rows.heads == 0 && p.weight.format == WeightFormat::kRowsBf16;
  });
  return found == prepared_.end() ? nullptr : &*found;
}

Tensor ParameterList::rows_in_order(const Parameter& parameter) const {
  const Prepared* p = find_rows_in_order(parameter);
  if (p == nullptr) return {};
  const Tensor& rows = p->weight.forward.defined() ? p->weight.forward : p->weight.backward_input;
  return rows.defined() ? rows.reshape({parameter.numel()}) : Tensor();
}

void ParameterList::refresh(ExecutionContext& ctx, const std::function<bool(const Parameter&)>& rows_are_written) {
  for (Prepared& p : prepared_) {
    if (p.parameter->residency != Residency::kTrained) continue;
    if (rows_are_written && &p == find_rows_in_order(*p.parameter) && rows_are_written(*p.parameter)) continue;
    prepare_from_value(ctx, p);
  }
}

bool ParameterList::read_in_bf16(const Parameter& parameter) const {
  if (parameter.spec.direct) return false;
  bool prepared = false;
  for (const Prepared& p : prepared_) {
    if (p.parameter != &parameter) continue;
    if (p.weight.format != WeightFormat::kRowsBf16 && p.weight.format != WeightFormat::kPanelsBf16) return false;
    prepared = true;
  }
  return prepared;
}

const float* ParameterList::values(const Parameter& parameter, const FileTensor& tensor,
                                   std::vector<float>& staged) const {
  if (parameter.value.defined() && parameter.value.dtype() == DType::kF32) {
    if (parameter.value.device().kind == DeviceKind::kCpu) return parameter.value.host<float>() + tensor.offset;
    staged.resize(tensor.numel());
    copy_tensor(
        Tensor(staged.data(), DType::kF32, {tensor.numel()}),
        Tensor(element_at(parameter.value, tensor.offset), DType::kF32, {tensor.numel()}, parameter.value.device()));
    return staged.data();
  }
  DT_CHECK(source_ != nullptr, "parameter {} has no values in fp32, and nothing to read them from again",
           parameter.spec.name);
  staged.resize(tensor.numel());
  source_->read(parameter, tensor, DType::kF32, staged.data());
  return staged.data();
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

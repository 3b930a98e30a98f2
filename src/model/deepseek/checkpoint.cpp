#include "model/deepseek/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "checkpoint/convert_elements.h"
#include "checkpoint/read_tensor.h"
#include "checkpoint/safetensors_writer.h"
#include "config/model_config_json.h"
#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

constexpr uint64_t kMaxShardBytes = 5'000'000'000;

// "model.layers.61.mlp..." -> 61; -1 for other names.
int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (name.compare(0, kPrefix.size(), kPrefix) != 0) return -1;
  return std::stoll(name.substr(kPrefix.size()));
}

// What a directory may hold beside the model's own tensors: next-token-prediction modules (with their copies of the
// embedding and the head), fp8 scales, the frequencies that old exports carry, and the head of a tied model.
bool may_be_ignored(const ModelDirectory& directory, const std::string& name, const ModelConfig& config) {
  return layer_of(name) >= config.num_hidden_layers || is_float8_scale(directory, name) ||
         name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight");
}

void check_names(const ModelDirectory& directory, const DeepseekModel& model) {
  std::set<std::string> expected;
  std::vector<std::string> missing;
  for (const Parameter& p : model.parameters().all()) {
    for (const std::string& name : p.file_names()) {
      expected.insert(name);
      if (!directory.contains(name)) missing.push_back(name);
    }
  }
  DT_CHECK(missing.empty(), "{}: tensor {} is missing ({} in all); the config.json beside it asks for it",
           directory.path().string(), missing.front(), missing.size());
  std::vector<std::string> unknown;
  for (const std::string& name : directory.names()) {
    if (!expected.contains(name) && !may_be_ignored(directory, name, model.config())) unknown.push_back(name);
  }
  DT_CHECK(unknown.empty(), "{}: tensor {} belongs to no part of the model ({} such in all); does config.json fit?",
           directory.path().string(), unknown.front(), unknown.size());
}

// One NaN or infinity makes every answer a wrong one, or only those that meet its row or expert.
void check_finite(const ModelDirectory& directory, const std::string& name, const Tensor& value) {
  const int64_t place = first_not_finite(value.raw(), value.dtype(), value.numel());
  if (place < 0) return;
  const std::string where = value.rank() == 2
                                ? fmt::format("row {}, column {}", place / value.size(1), place % value.size(1))
                                : fmt::format("place {}", place);
  const double found = value.dtype() == DType::kF32 ? value.host<float>()[place]
                                                    : static_cast<double>(to_float(value.host<bfloat16>()[place]));
  fail(
      "{}: tensor {} is not finite: {} at {}, as {}; the model was damaged or its training diverged, use an earlier "
      "checkpoint or download it again",
      directory.path().string(), name, found, where, dtype_name(value.dtype()));
}

void read_value(const ModelDirectory& directory, const Parameter& p) {
  const std::vector<std::string> names = p.file_names();
  for (size_t e = 0; e < names.size(); ++e) {
    read_tensor(directory, names[e], p.part_shape(), p.value.dtype(), p.parts[e].raw());
    check_finite(directory, names[e], p.parts[e]);
  }
}

}  // namespace

void load_for_training(const ModelDirectory& directory, DeepseekModel& model) {
  check_names(directory, model);
  for (const Parameter& p : model.parameters().all()) read_value(directory, p);
}

void load_for_inference(ExecutionContext& ctx, const ModelDirectory& directory, DeepseekModel& model) {
  check_names(directory, model);
  for (Parameter& p : model.parameters().all()) {
    if (p.spec.direct) {
      read_value(directory, p);
      model.parameters().refresh(ctx, p);
      continue;
    }
    // The kernels' layout is made from the mapped file itself where its elements are f32 or bf16 in their places; other
    // files go through one parameter's worth of memory.
    const std::vector<std::string> names = p.file_names();
    const std::vector<int64_t> shape = p.part_shape();
    std::vector<std::vector<std::byte>> staged(names.size());
    p.parts.clear();
    for (size_t e = 0; e < names.size(); ++e) {
      const TensorEntry& entry = directory.at(names[e]);
      const bool direct = (entry.dtype == DType::kF32 || entry.dtype == DType::kBF16) && entry.shape == shape &&
                          reinterpret_cast<uintptr_t>(entry.data) % dtype_size(entry.dtype) == 0;
      if (direct) {
        p.parts.emplace_back(const_cast<std::byte*>(entry.data), entry.dtype, Tensor::Shape{shape[0], shape[1]});
        directory.prefetch(entry);
        check_finite(directory, names[e], p.parts.back());
        continue;
      }
      const DType dtype = model.options().compute;
      staged[e].resize(static_cast<size_t>(element_count(shape)) * dtype_size(dtype));
      read_tensor(directory, names[e], shape, dtype, staged[e].data());
      p.parts.emplace_back(staged[e].data(), dtype, Tensor::Shape{shape[0], shape[1]});
      check_finite(directory, names[e], p.parts.back());
    }
    model.parameters().refresh(ctx, p);
    p.parts.clear();
    for (const std::string& name : names) directory.release(directory.at(name));
  }
}

void save_model(const std::filesystem::path& directory, const DeepseekModel& model, DType dtype) {
  DT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "a model is saved as f32 or bf16, not {}", dtype_name(dtype));
  std::vector<TensorDeclaration> declarations;
  const auto dtype_of = [&](const Parameter& p) { return p.spec.trained ? dtype : DType::kF32; };
  for (const Parameter& p : model.parameters().all()) {
    for (const std::string& name : p.file_names()) declarations.push_back({name, dtype_of(p), p.part_shape()});
  }
  ShardedSafetensorsWriter writer(directory, declarations, kMaxShardBytes);
  std::vector<bfloat16> rounded;
  for (const Parameter& p : model.parameters().all()) {
    const std::vector<std::string> names = p.file_names();
    for (size_t e = 0; e < names.size(); ++e) {
      const Tensor& part = p.parts[e];
      if (dtype_of(p) == DType::kF32) {
        writer.write(names[e], part.raw(), part.bytes());
        continue;
      }
      rounded.resize(part.numel());
      convert_elements(part.raw(), DType::kF32, rounded.data(), DType::kBF16, part.numel());
      writer.write(names[e], rounded.data(), rounded.size() * sizeof(bfloat16));
    }
  }
  writer.finish();
  write_file(directory / "config.json", to_json(model.config(), dtype == DType::kF32 ? "float32" : "bfloat16"));
}

}  // namespace deeptitan

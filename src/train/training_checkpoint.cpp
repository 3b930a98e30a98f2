#include "train/training_checkpoint.h"

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/convert_elements.h"
#include "checkpoint/manifest.h"
#include "checkpoint/training_state.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"

namespace deeptitan {
namespace {

// A tensor of the training state. The masters come first, as file tensors that lie in memory or in the model's source.
struct StateTensor {
  TensorDeclaration declaration;
  const Parameter* master = nullptr;
  Tensor memory;
};

std::string master_name(const Parameter& parameter) {
  return "master." + parameter.spec.name;
}

std::vector<StateTensor> state_tensors(TrainingEngine& engine) {
  std::vector<StateTensor> tensors;
  for (const Parameter& p : engine.model().parameters().all()) {
    tensors.push_back({{master_name(p), DType::kF32, p.shape}, &p, {}});
    for (const std::string& slot : engine.optimizer_slots()) {
      const Tensor memory = engine.optimizer_slot(p, slot);
      if (!memory.defined()) continue;
      tensors.push_back({{slot + "." + p.spec.name, DType::kF32, p.shape}, nullptr, memory});
    }
  }
  return tensors;
}

// A tensor where the CPU can reach it: itself, or of its size in `staged`.
Tensor host_form(const Tensor& tensor, std::vector<float>& staged) {
  if (tensor.device().kind == DeviceKind::kCpu) return tensor;
  staged.resize(static_cast<size_t>(tensor.numel()));
  return {staged.data(), DType::kF32, {tensor.numel()}};
}

std::vector<TensorDeclaration> declarations(const std::vector<StateTensor>& tensors) {
  std::vector<TensorDeclaration> result;
  result.reserve(tensors.size());
  for (const StateTensor& t : tensors) result.push_back(t.declaration);
  return result;
}

// The masters of a training state.
class StateValues final : public ParameterSource {
 public:
  explicit StateValues(std::shared_ptr<const TrainingStateReader> reader) : reader_(std::move(reader)) {}

  void read(const Parameter& parameter, const FileTensor& tensor, DType dtype, void* values) const override {
    convert_elements(first_byte(parameter, tensor), DType::kF32, values, dtype, tensor.numel());
  }

 private:
  const std::byte* first_byte(const Parameter& parameter, const FileTensor& tensor) const {
    return reader_->tensors().at(master_name(parameter)).data + tensor.offset * static_cast<int64_t>(sizeof(float));
  }

  std::shared_ptr<const TrainingStateReader> reader_;
};

std::string generation_config(const ModelConfig& config) {
  nlohmann::ordered_json json;
  json["_from_model_config"] = true;
  if (config.bos_token_id >= 0) json["bos_token_id"] = config.bos_token_id;
  if (config.eos_token_ids.size() == 1) json["eos_token_id"] = config.eos_token_ids.front();
  if (config.eos_token_ids.size() > 1) json["eos_token_id"] = config.eos_token_ids;
  if (config.pad_token_id >= 0) json["pad_token_id"] = config.pad_token_id;
  return json.dump(2) + "\n";
}

}  // namespace

void export_model(const std::filesystem::path& directory, TrainingEngine& engine, const ModelExport& how) {
  save_model(directory, engine.model(), how.dtype);
  write_file(directory / "generation_config.json",
             how.generation_config.empty() ? generation_config(engine.model().config()) : how.generation_config);
  if (how.tokenizer != nullptr) how.tokenizer->save(directory);
}

void make_way(const std::filesystem::path& target) {
  try {
    check_removable(target);
  } catch (const Error& error) {
    log_warning(fmt::format("{}; it is kept as {}", error.what(), set_aside(target).string()));
  }
}

void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     const ModelExport& how, int64_t keep) {
  make_way(folder / checkpoint_name(progress.step));
  AtomicDirectory directory(folder / checkpoint_name(progress.step));
  export_model(directory.path(), engine, how);
  const std::vector<StateTensor> tensors = state_tensors(engine);
  TrainingStateWriter writer(directory.path() / kTrainingStateDirectory, declarations(tensors));
  std::vector<float> staged;
  for (const StateTensor& t : tensors) {
    if (t.master == nullptr) {
      const Tensor host = host_form(t.memory, staged);
      if (host.raw() != t.memory.raw()) copy_tensor(host, t.memory);
      writer.write(t.declaration.name, host.raw(), host.bytes());
      continue;
    }
    for (const FileTensor& tensor : t.master->file_tensors()) {
      const float* values = engine.model().parameters().values(*t.master, tensor, staged);
      writer.write(t.declaration.name, values, tensor.numel() * sizeof(float));
    }
  }
  TrainingStateMetadata metadata;
  metadata.set_integer("step", progress.step);
  metadata.set_integer("updates", engine.updates());
  metadata.set_integer("tokens", progress.tokens);
  metadata.set_text("data_position", progress.data.to_json());
  metadata.set_text("config", progress.config);
  writer.finish(metadata);
  write_manifest(directory.path(), progress.step);
  directory.commit();
  remove_old_checkpoints(folder, keep);
}

TrainingProgress read_progress(const std::filesystem::path& checkpoint) {
  const TrainingStateReader reader(checkpoint / kTrainingStateDirectory);
  const TrainingStateMetadata& metadata = reader.metadata();
  return {.step = metadata.integer("step"),
          .tokens = metadata.integer("tokens"),
          .data = DataPosition::from_json(metadata.text("data_position"), checkpoint.string()),
          .config = metadata.text("config")};
}

void load_checkpoint(const std::filesystem::path& checkpoint, TrainingEngine& engine) {
  const auto reader = std::make_shared<const TrainingStateReader>(checkpoint / kTrainingStateDirectory);
  const std::vector<StateTensor> tensors = state_tensors(engine);
  reader->check(declarations(tensors));
  std::vector<float> staged;
  for (const StateTensor& t : tensors) {
    if (t.master != nullptr) continue;
    const Tensor host = host_form(t.memory, staged);
    reader->read(t.declaration.name, host.raw(), host.bytes());
    if (host.raw() != t.memory.raw()) copy_tensor(t.memory, host);
  }
  engine.set_updates(reader->metadata().integer("updates"));
  engine.load(std::make_shared<const StateValues>(reader));
}

}  // namespace deeptitan

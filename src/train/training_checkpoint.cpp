#include "train/training_checkpoint.h"

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/optimizer_slots.h"
#include "checkpoint/run_checkpoints.h"
#include "checkpoint/training_state.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"

namespace deeptitan {
namespace {

// A part of the optimizer's state and where it lies in memory.
struct OptimizerSlice {
  SlotSlice slice;
  Tensor memory;  // [elements]
};

// One for each tensor of the model's files that lies here.
std::vector<OptimizerSlice> optimizer_slices(TrainingEngine& engine) {
  std::vector<OptimizerSlice> slices;
  for (const std::string& slot : engine.optimizer_slots()) {
    for (const Parameter& p : engine.model().parameters().all()) {
      Tensor memory = engine.optimizer_slot(p, slot);
      if (!memory.defined()) continue;
      memory = memory.reshape({memory.numel()});
      for (const FileTensor& tensor : p.file_tensors()) {
        slices.push_back(
            {{slot, tensor.name, 0, tensor.numel()}, memory.rows(tensor.offset, tensor.offset + tensor.numel())});
      }
    }
  }
  return slices;
}

// A tensor where the CPU can reach it: itself, or of its size in `staged`.
Tensor host_form(const Tensor& tensor, std::vector<float>& staged) {
  if (tensor.device().kind == DeviceKind::kCpu) return tensor;
  staged.resize(static_cast<size_t>(tensor.numel()));
  return {staged.data(), DType::kF32, {tensor.numel()}};
}

std::vector<SlotSlice> declarations(const std::vector<OptimizerSlice>& slices) {
  std::vector<SlotSlice> result;
  result.reserve(slices.size());
  for (const OptimizerSlice& slice : slices) result.push_back(slice.slice);
  return result;
}

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

std::map<std::string, FileDigest> export_model(const std::filesystem::path& directory, TrainingEngine& engine,
                                               const ModelExport& how) {
  std::map<std::string, FileDigest> digests = save_model(directory, engine.model(), how.dtype, how.carried_from);
  write_file(directory / "generation_config.json",
             how.generation_config.empty() ? generation_config(engine.model().config()) : how.generation_config);
  if (how.tokenizer != nullptr) how.tokenizer->save(directory);
  return digests;
}

void make_way(const std::filesystem::path& target) {
  try {
    check_removable(target);
  } catch (const Error& error) {
    log_warning(fmt::format("{}; it is kept as {}", error.what(), set_aside(target).string()));
  }
}

void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     ModelExport how, int64_t keep) {
  const std::filesystem::path target = folder / checkpoint_name(progress.step);
  make_way(target);
  AtomicDirectory directory(target);
  how.dtype = DType::kF32;
  std::map<std::string, FileDigest> digests = export_model(directory.path(), engine, how);
  const std::filesystem::path state = directory.path() / kTrainingStateDirectory;
  std::error_code error;
  std::filesystem::create_directory(state, error);
  if (error) fail_file("create", state, error.value());
  const std::vector<OptimizerSlice> slices = optimizer_slices(engine);
  SlotWriter writer(state, /*rank=*/0, declarations(slices));
  std::vector<float> staged;
  for (const OptimizerSlice& slice : slices) {
    const Tensor host = host_form(slice.memory, staged);
    if (host.raw() != slice.memory.raw()) copy_tensor(host, slice.memory);
    writer.write(slice.slice, host.host<float>());
  }
  digests[fmt::format("{}/{}", kTrainingStateDirectory, writer.file_name())] = writer.finish();
  TrainingStateMetadata metadata;
  metadata.set_integer("step", progress.step);
  metadata.set_integer("updates", engine.updates());
  metadata.set_integer("tokens", progress.tokens);
  metadata.set_text("data_position", progress.data.to_json());
  metadata.set_text("config", progress.config);
  metadata.set_integer("metrics_bytes", progress.metrics.bytes);
  metadata.set_text("metrics_digest", progress.metrics.digest);
  write_training_state(state, metadata);
  write_manifest(directory.path(), progress.step, std::move(digests));
  directory.commit();
  remove_old_checkpoints(folder, keep);
}

TrainingProgress read_progress(const std::filesystem::path& checkpoint) {
  const TrainingStateMetadata metadata = read_training_state(checkpoint / kTrainingStateDirectory);
  return {.step = metadata.integer("step"),
          .tokens = metadata.integer("tokens"),
          .data = DataPosition::from_json(metadata.text("data_position"), checkpoint.string()),
          .config = metadata.text("config"),
          .metrics = {static_cast<uint64_t>(metadata.integer("metrics_bytes")), metadata.text("metrics_digest")}};
}

std::shared_ptr<const ModelDirectory> load_checkpoint(const std::filesystem::path& checkpoint, TrainingEngine& engine) {
  const SlotReader reader(checkpoint / kTrainingStateDirectory);
  const std::vector<OptimizerSlice> slices = optimizer_slices(engine);
  reader.check(declarations(slices));
  std::vector<float> staged;
  for (const OptimizerSlice& slice : slices) {
    const Tensor host = host_form(slice.memory, staged);
    reader.read(slice.slice, host.host<float>());
    if (host.raw() != slice.memory.raw()) copy_tensor(slice.memory, host);
  }
  engine.set_updates(read_training_state(checkpoint / kTrainingStateDirectory).integer("updates"));
  auto model = std::make_shared<const ModelDirectory>(checkpoint);
  engine.load(model);
  return model;
}

}  // namespace deeptitan

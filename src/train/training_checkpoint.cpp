#include "train/training_checkpoint.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/optimizer_slots.h"
#include "checkpoint/run_checkpoints.h"
#include "checkpoint/training_state.h"
#include "comm/rank_texts.h"
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
  bool written;   // by this rank; others that have the same read it
};

// What lies here of the slots, tensor by tensor of the model's files.
std::vector<OptimizerSlice> optimizer_slices(TrainingEngine& engine) {
  std::vector<OptimizerSlice> slices;
  for (const std::string& slot : engine.optimizer_slots()) {
    for (const Parameter& p : engine.model().parameters().all()) {
      if (!p.gradient.defined()) continue;
      const SlotPart part = engine.optimizer_slot(p, slot);
      for (const FileTensor& tensor : p.file_tensors()) {
        const int64_t begin = std::max(tensor.offset, part.begin);
        const int64_t end = std::min(tensor.offset + tensor.numel(), part.begin + part.memory.size(0));
        if (begin >= end) continue;
        slices.push_back({{slot, tensor.name, begin - tensor.offset, end - tensor.offset, part.memory.dtype()},
                          part.memory.rows(begin - part.begin, end - part.begin),
                          engine.answers_for(p) && engine.shards().answers_for(p.spec.placement)});
      }
    }
  }
  return slices;
}

// The slots of the whole model, whoever has them.
std::vector<SlotSlice> all_slots(TrainingEngine& engine) {
  std::vector<SlotSlice> slices;
  for (const std::string& slot : engine.optimizer_slots()) {
    for (const Parameter& p : engine.model().whole().parameters().all()) {
      if (p.residency != Residency::kTrained) continue;
      Parameter whole = p;
      if (whole.stacked()) whole.owned = {.first = 0, .count = whole.spec.shape[0]};
      for (const FileTensor& tensor : whole.file_tensors()) slices.push_back({slot, tensor.name, 0, tensor.numel()});
    }
  }
  return slices;
}

// A tensor where the CPU can reach it: itself, or of its size in `staged`.
Tensor host_form(const Tensor& tensor, std::vector<std::byte>& staged) {
  if (tensor.device().kind == DeviceKind::kCpu) return tensor;
  staged.resize(static_cast<size_t>(tensor.bytes()));
  return {staged.data(), tensor.dtype(), {tensor.numel()}};
}

// Writes this rank's slices. Returns the file's digest under its path in the checkpoint; nothing where there are none.
std::map<std::string, FileDigest> write_slots(const std::filesystem::path& state, int64_t rank,
                                              std::vector<OptimizerSlice> slices) {
  std::erase_if(slices, [](const OptimizerSlice& slice) { return !slice.written; });
  if (slices.empty()) return {};
  std::vector<SlotSlice> declarations;
  declarations.reserve(slices.size());
  for (const OptimizerSlice& slice : slices) declarations.push_back(slice.slice);
  SlotWriter writer(state, rank, declarations);
  std::vector<std::byte> staged;
  for (const OptimizerSlice& slice : slices) {
    const Tensor host = host_form(slice.memory, staged);
    if (host.raw() != slice.memory.raw()) copy_tensor(host, slice.memory);
    writer.write(slice.slice, host.raw());
  }
  return {{fmt::format("{}/{}", kTrainingStateDirectory, writer.file_name()), writer.finish()}};
}

// Those of all ranks.
std::map<std::string, FileDigest> gather_digests(const std::map<std::string, FileDigest>& mine, Communicator* ranks) {
  if (ranks_in(ranks) == 1) return mine;
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [file, digest] : mine) json[file] = {digest.bytes, digest.digest};
  std::map<std::string, FileDigest> all;
  for (const std::string& text : gather_texts(*ranks, json.dump())) {
    const nlohmann::json of_rank = nlohmann::json::parse(text);
    for (const auto& [file, digest] : of_rank.items()) {
      all[file] = {digest.at(0).get<uint64_t>(), digest.at(1).get<std::string>()};
    }
  }
  return all;
}

void write_progress(const std::filesystem::path& state, const TrainingProgress& progress, int64_t updates) {
  TrainingStateMetadata metadata;
  metadata.set_integer("step", progress.step);
  metadata.set_integer("updates", updates);
  metadata.set_integer("tokens", progress.tokens);
  metadata.set_text("data_position", progress.data.to_json());
  metadata.set_text("config", progress.config);
  metadata.set_integer("metrics_bytes", progress.metrics.bytes);
  metadata.set_text("metrics_digest", progress.metrics.digest);
  write_training_state(state, metadata);
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
  Communicator* host = engine.options().groups.host;
  const ParameterList& parameters = engine.model().parameters();
  const auto writes = [&](const Parameter& parameter, const FileTensor& tensor) {
    return engine.answers_for(parameter) && engine.shards().writes(parameters, parameter, tensor);
  };
  std::map<std::string, FileDigest> digests =
      save_model(directory, engine.model(), how.dtype, how.carried_from, {.host = host, .writes = writes});
  if (rank_in(host) != 0) return digests;
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

void write_directory(const std::filesystem::path& target, int64_t step, Communicator* host,
                     const std::function<std::map<std::string, FileDigest>(const std::filesystem::path&)>& write) {
  std::optional<AtomicDirectory> directory;
  const std::filesystem::path path = on_first_rank(host, [&] {
    make_way(target);
    directory.emplace(target);
    return directory->path().string();
  });
  std::map<std::string, FileDigest> digests = write(path);
  on_first_rank(host, [&] {
    write_manifest(path, step, std::move(digests));
    directory->commit();
    return std::string();
  });
}

void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     ModelExport how, int64_t keep) {
  Communicator* host = engine.options().groups.host;
  how.dtype = DType::kF32;
  write_directory(folder / checkpoint_name(progress.step), progress.step, host, [&](const std::filesystem::path& path) {
    const std::filesystem::path state = path / kTrainingStateDirectory;
    on_first_rank(host, [&] {
      std::error_code error;
      std::filesystem::create_directory(state, error);
      if (error) fail_file("create", state, error.value());
      return std::string();
    });
    std::map<std::string, FileDigest> digests = export_model(path, engine, how);
    digests.merge(gather_digests(write_slots(state, rank_in(host), optimizer_slices(engine)), host));
    if (rank_in(host) == 0) write_progress(state, progress, engine.updates());
    return digests;
  });
  if (rank_in(host) == 0) remove_old_checkpoints(folder, keep);
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
  reader.check(all_slots(engine));
  std::vector<std::byte> staged;
  for (const OptimizerSlice& slice : slices) {
    const Tensor host = host_form(slice.memory, staged);
    reader.read(slice.slice, host.raw());
    if (host.raw() != slice.memory.raw()) copy_tensor(slice.memory, host);
  }
  engine.set_updates(read_training_state(checkpoint / kTrainingStateDirectory).integer("updates"));
  auto model = std::make_shared<const ModelDirectory>(checkpoint);
  engine.load(model);
  return model;
}

}  // namespace deeptitan

#include "train/training_checkpoint.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
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
#include "core/upload_in_pieces.h"
#include "model/deepseek/checkpoint.h"

namespace deeptitan {
namespace {

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

// Through pinned memory, in pieces that threads read side by side.
void upload_slots(const SlotReader& reader, const std::vector<OptimizerSlice>& slices, Device device) {
  constexpr int64_t kElements = 1 << 20;
  struct Piece {
    SlotSlice slice;
    char* to;
    int64_t bytes;
  };
  std::vector<Piece> pieces;
  for (const OptimizerSlice& all : slices) {
    const auto size = static_cast<int64_t>(dtype_size(all.slice.dtype));
    for (int64_t begin = all.slice.begin; begin < all.slice.end; begin += kElements) {
      SlotSlice part = all.slice;
      part.begin = begin;
      part.end = std::min(begin + kElements, all.slice.end);
      char* to = static_cast<char*>(all.memory.raw()) + (begin - all.slice.begin) * size;
      pieces.push_back({part, to, (part.end - begin) * size});
    }
  }
  constexpr int64_t kMostBytes = kElements * static_cast<int64_t>(sizeof(float));
  upload_in_pieces(device, std::ssize(pieces), kMostBytes, [&](int64_t i, const UploadRoom& room) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    reader.read(piece.slice, room.memory());
    room.copy(piece.to, 0, piece.bytes);
  });
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

// What a model's directory holds beside weights and config.json.
void write_beside_weights(const std::filesystem::path& directory, const ModelConfig& config, const ModelExport& how) {
  write_file(directory / "generation_config.json",
             how.generation_config.empty() ? generation_config(config) : how.generation_config);
  if (how.tokenizer != nullptr) how.tokenizer->save(directory);
}

WritingRanks writing_ranks(const TrainingEngine& engine) {
  return {.host = engine.options().groups.host,
          .writes = [&engine](const auto& p, const auto& tensor) { return writes_tensor(engine, p, tensor); }};
}

// Makes the directory that becomes `target`, on the first rank. Returns where all write.
std::filesystem::path make_directory(const std::filesystem::path& target, Communicator* host,
                                     std::optional<AtomicDirectory>& directory) {
  return on_first_rank(host, [&] {
    make_way(target);
    directory.emplace(target);
    return directory->path().string();
  });
}

// All ranks throw what one has kept.
void throw_on_all(Communicator* host, const std::exception_ptr& mine) {
  on_each_rank(host, [&] {
    if (mine) std::rethrow_exception(mine);
    return std::string();
  });
}

}  // namespace

std::map<std::string, FileDigest> export_model(const std::filesystem::path& directory, TrainingEngine& engine,
                                               const ModelExport& how) {
  engine.complete_values();
  std::map<std::string, FileDigest> digests =
      save_model(directory, engine.model(), how.dtype, how.carried_from, writing_ranks(engine));
  if (rank_in(engine.options().groups.host) == 0) write_beside_weights(directory, engine.model().config(), how);
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
  const std::filesystem::path path = make_directory(target, host, directory);
  std::map<std::string, FileDigest> digests = write(path);
  on_first_rank(host, [&] {
    write_manifest(path, step, std::move(digests));
    directory->commit();
    return std::string();
  });
}

void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     const ModelExport& how, int64_t keep) {
  CheckpointWriting writing(folder, progress, engine, how, keep, nullptr);
  writing.write();
  writing.gather();
  writing.finish();
  writing.close();
}

CheckpointWriting::CheckpointWriting(const std::filesystem::path& folder, const TrainingProgress& progress,
                                     TrainingEngine& engine, const ModelExport& how, int64_t keep,
                                     const CheckpointSnapshot* snapshot)
    : engine_(engine),
      host_(engine.options().groups.host),
      folder_(folder),
      progress_(progress),
      updates_(engine.updates()),
      how_(how),
      keep_(keep),
      snapshot_(snapshot) {
  engine.complete_values();
  path_ = make_directory(folder / checkpoint_name(progress.step), host_, directory_);
  on_first_rank(host_, [&] {
    const std::filesystem::path state = path_ / kTrainingStateDirectory;
    std::error_code error;
    std::filesystem::create_directory(state, error);
    if (error) fail_file("create", state, error.value());
    return std::string();
  });
  model_.emplace(path_, engine_.model(), DType::kF32, how_.carried_from, writing_ranks(engine_));
}

void CheckpointWriting::check_cancelled() const {
  DT_CHECK(!cancelled_, "the checkpoint of step {} was given up", progress_.step);
}

void CheckpointWriting::write() noexcept {
  try {
    write_files();
  } catch (...) {
    problem_ = std::current_exception();
  }
}

void CheckpointWriting::write_files() {
  const ParameterList& list = engine_.model().parameters();
  shards_ = model_->write([&](const Parameter& p, const FileTensor& tensor, std::vector<float>& staged) {
    check_cancelled();
    return snapshot_ == nullptr ? list.values(p, tensor, staged) : snapshot_->values(p, tensor, staged);
  });
  check_cancelled();
  slots_ = write_slots(path_ / kTrainingStateDirectory, rank_in(host_),
                       snapshot_ == nullptr ? optimizer_slices(engine_) : snapshot_->slices());
  // Each rank's own: another host's file system may not know of them yet.
  for (const auto& files : {shards_.digests, slots_}) {
    for (const auto& [name, digest] : files) File::open(path_ / name).sync();
  }
}

void CheckpointWriting::gather() {
  throw_on_all(host_, std::exchange(problem_, nullptr));
  shards_ = gather_shards(std::move(shards_), host_);
  slots_ = gather_digests(slots_, host_);
}

void CheckpointWriting::finish() noexcept {
  if (rank_in(host_) != 0 || problem_) return;
  try {
    put_in_place();
  } catch (...) {
    problem_ = std::current_exception();
  }
}

void CheckpointWriting::put_in_place() {
  model_->write_index(shards_);
  write_beside_weights(path_, engine_.model().config(), how_);
  write_progress(path_ / kTrainingStateDirectory, progress_, updates_);
  std::map<std::string, FileDigest> digests = shards_.digests;
  digests.merge(slots_);
  write_manifest(path_, progress_.step, std::move(digests));
  directory_->commit();
  warnings_ = remove_old_checkpoints(folder_, keep_);
}

void CheckpointWriting::close() {
  throw_on_all(host_, std::exchange(problem_, nullptr));
  for (const std::string& warning : warnings_) log_warning(warning);
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
  if (engine.options().device.kind == DeviceKind::kCpu) {
    for (const OptimizerSlice& slice : slices) reader.read(slice.slice, slice.memory.raw());
  } else {
    upload_slots(reader, slices, engine.options().device);
  }
  engine.set_updates(read_training_state(checkpoint / kTrainingStateDirectory).integer("updates"));
  auto model = std::make_shared<const ModelDirectory>(checkpoint);
  engine.load(model);
  return model;
}

}  // namespace deeptitan

#include "model/deepseek/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/convert_elements.h"
#include "checkpoint/read_tensor.h"
#include "checkpoint/safetensors_writer.h"
#include "comm/rank_texts.h"
#include "config/model_config_json.h"
#include "core/dtype_word.h"
#include "core/error.h"
#include "core/file.h"
#include "core/float8.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

constexpr uint64_t kMaxShardBytes = 5'000'000'000;

// "model.layers.61.mlp..." -> 61; -1 for other names.
int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return -1;
  name.remove_prefix(kPrefix.size());
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const bool is_number = error == std::errc() && layer >= 0 && end != name.data() + name.size() && *end == '.';
  return is_number ? layer : -1;
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
  for (const Parameter& p : model.whole().parameters().all()) {
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
           directory.path().string(), shown(unknown.front()), unknown.size());
}

// One NaN or infinity makes every answer a wrong one, or only those that meet its row or expert. Where the first one
// lies; nothing where all are finite. `first_row` is the row of the tensor (of a vector: the place) that the value
// begins with.
std::optional<std::string> place_not_finite(const Tensor& value, int64_t first_row = 0) {
  const int64_t place = first_not_finite(value.raw(), value.dtype(), value.numel());
  if (place < 0) return std::nullopt;
  const std::string where =
      value.rank() == 2 ? fmt::format("row {}, column {}", first_row + place / value.size(1), place % value.size(1))
                        : fmt::format("place {}", first_row + place);
  const double found = value.dtype() == DType::kF32 ? value.host<float>()[place]
                                                    : static_cast<double>(to_float(value.host<bfloat16>()[place]));
  return fmt::format("{} at {}, as {}", std::isnan(found) ? "nan" : fmt::format("{}", found), where,
                     dtype_word(value.dtype()));
}

void check_finite(const ModelDirectory& directory, const std::string& name, const Tensor& value,
                  int64_t first_row = 0) {
  const auto place = place_not_finite(value, first_row);
  if (!place) return;
  fail(
      "{}: tensor {} is not finite: {}; the model was damaged or its training diverged, use an earlier checkpoint or "
      "download it again",
      directory.path().string(), name, *place);
}

void check_finite_float8(const ModelDirectory& directory, const std::string& name, const Tensor& value) {
  const auto* first = static_cast<const float8_e4m3*>(value.raw());
  const auto* end = first + value.numel();
  const auto* found = std::find_if(first, end, [](float8_e4m3 element) { return (element.bits & 0x7f) == 0x7f; });
  if (found == end) return;
  fail(
      "{}: tensor {} is not finite: nan at row {}, column {}, as f8_e4m3; the model was damaged or its training "
      "diverged, use an earlier checkpoint or download it again",
      directory.path().string(), name, (found - first) / value.size(1), (found - first) % value.size(1));
}

// What the model leaves unread of the directory's next-token-prediction modules, as it is to be written.
std::vector<TensorDeclaration> carried_tensors(const ModelDirectory* directory, const DeepseekModel& model,
                                               DType dtype) {
  std::vector<TensorDeclaration> carried;
  if (directory == nullptr || model.options().next_token_prediction) return carried;
  for (const std::string& name : directory->names()) {
    if (layer_of(name) < model.config().num_hidden_layers || is_float8_scale(*directory, name)) continue;
    const TensorEntry& entry = directory->at(name);
    const bool buffer = name.ends_with("e_score_correction_bias");
    carried.push_back({name, buffer ? DType::kF32 : dtype, entry.shape});
  }
  return carried;
}

Tensor as_tensor(void* values, DType dtype, const std::vector<int64_t>& shape) {
  return shape.size() == 1 ? Tensor(values, dtype, {shape[0]}) : Tensor(values, dtype, {shape[0], shape[1]});
}

void write_carried(ShardedSafetensorsWriter& writer, const std::vector<TensorDeclaration>& carried,
                   const ModelDirectory* from) {
  std::vector<std::byte> bytes;
  for (const TensorDeclaration& tensor : carried) {
    bytes.resize(static_cast<size_t>(element_count(tensor.shape)) * dtype_size(tensor.dtype));
    read_tensor(*from, tensor.name, tensor.shape, tensor.dtype, bytes.data());
    writer.write(tensor.name, bytes.data(), bytes.size());
  }
}

// Gives a rank's shards (nullptr: it has none) their numbers among all.
void number_shards(ShardedSafetensorsWriter* writer, Communicator& ranks) {
  size_t first = 0, all = 0;
  const std::vector<std::string> counts =
      gather_texts(ranks, std::to_string(writer == nullptr ? 0 : writer->shard_count()));
  for (int r = 0; r < ranks.size(); ++r) {
    const size_t count = std::stoul(counts[r]);
    if (r < ranks.rank()) first += count;
    all += count;
  }
  if (writer != nullptr) writer->number(first, all);
}

// The tensors of a directory, which may lie in mapped files as products want to read them.
class DirectoryValues final : public ParameterSource {
 public:
  explicit DirectoryValues(std::shared_ptr<const ModelDirectory> directory) : directory_(std::move(directory)) {}

  void read(const Parameter& /*parameter*/, const FileTensor& tensor, DType dtype, void* values) const override {
    read_tensor(*directory_, tensor.name, tensor.shape, dtype, values);
    check_finite(*directory_, tensor.name, as_tensor(values, dtype, tensor.shape));
  }
  bool reads_rows() const override { return true; }
  void read_rows(const Parameter& /*parameter*/, const FileTensor& tensor, int64_t first, int64_t rows, DType dtype,
                 void* values) const override {
    read_tensor_rows(*directory_, tensor.name, tensor.shape, first, rows, dtype, values);
    std::vector<int64_t> shape = tensor.shape;
    shape[0] = rows;
    check_finite(*directory_, tensor.name, as_tensor(values, dtype, shape), first);
  }
  Tensor view(const Parameter& /*parameter*/, const FileTensor& tensor) const override {
    const TensorEntry& entry = directory_->at(tensor.name);
    const bool lies_there = (entry.dtype == DType::kF32 || entry.dtype == DType::kBF16) &&
                            entry.shape == tensor.shape && tensor.shape.size() == 2 &&
                            reinterpret_cast<uintptr_t>(entry.data) % dtype_size(entry.dtype) == 0;
    if (!lies_there) return {};
    directory_->prefetch(entry);
    const Tensor value = as_tensor(const_cast<std::byte*>(entry.data), entry.dtype, tensor.shape);
    check_finite(*directory_, tensor.name, value);
    return value;
  }
  BlockQuantized quantized(const Parameter& /*parameter*/, const FileTensor& tensor) const override {
    const TensorEntry& entry = directory_->at(tensor.name);
    const TensorEntry* scale = float8_scale(*directory_, entry);
    const bool lies_there = scale != nullptr && entry.shape == tensor.shape && tensor.shape.size() == 2 &&
                            reinterpret_cast<uintptr_t>(scale->data) % sizeof(float) == 0;
    if (!lies_there) return {};
    directory_->prefetch(entry);
    const BlockQuantized value{as_tensor(const_cast<std::byte*>(entry.data), entry.dtype, entry.shape),
                               as_tensor(const_cast<std::byte*>(scale->data), scale->dtype, scale->shape)};
    check_finite(*directory_, scale->name, value.scales);
    check_finite_float8(*directory_, tensor.name, value.elements);
    return value;
  }
  void release(const Parameter& /*parameter*/, const FileTensor& tensor) const override {
    directory_->release(directory_->at(tensor.name));
  }

 private:
  std::shared_ptr<const ModelDirectory> directory_;
};

}  // namespace

void load_weights(ExecutionContext& ctx, std::shared_ptr<const ModelDirectory> directory, DeepseekModel& model) {
  check_names(*directory, model);
  model.parameters().load(ctx, std::make_shared<DirectoryValues>(std::move(directory)));
}

bool has_next_token_prediction(const ModelDirectory& directory, const ModelConfig& config) {
  const std::string prefix = fmt::format("model.layers.{}.", config.num_hidden_layers);
  const auto first = std::lower_bound(directory.names().begin(), directory.names().end(), prefix);
  return first != directory.names().end() && first->starts_with(prefix);
}

ModelWriter::ModelWriter(std::filesystem::path directory, const DeepseekModel& model, DType dtype,
                         const ModelDirectory* carried_from, const WritingRanks& ranks)
    : directory_(std::move(directory)),
      model_(model),
      dtype_(dtype),
      carried_from_(carried_from),
      first_(ranks.host == nullptr || ranks.host->rank() == 0),
      carried_(carried_tensors(carried_from, model, dtype)) {
  DT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "a model is saved as fp32 or bf16, not {}",
           dtype_word(dtype));
  const bool shared = ranks.host != nullptr && ranks.host->size() > 1;
  std::vector<TensorDeclaration> declarations;
  for (const Parameter& p : model.parameters().all()) {
    for (FileTensor& tensor : p.file_tensors()) {
      if (shared && !ranks.writes(p, tensor)) continue;
      declarations.push_back({tensor.name, dtype_of(p), tensor.shape});
      mine_.emplace_back(&p, std::move(tensor));
    }
  }
  if (first_) declarations.insert(declarations.end(), carried_.begin(), carried_.end());
  if (!shared || !declarations.empty()) writer_.emplace(directory_, std::move(declarations), kMaxShardBytes);
  if (shared) number_shards(writer_ ? &*writer_ : nullptr, *ranks.host);
}

// What no load would accept is not written either: a checkpoint of it would push the good ones out.
void ModelWriter::write_finite(const std::string& name, const Tensor& value) {
  const auto place = place_not_finite(value);
  DT_CHECK(!place,
           "the model is not written to {}: tensor {} is not finite: {}; training has diverged, go on from the last "
           "checkpoint with a smaller optimizer.lr, training.max_norm or training.router_bias_update_speed",
           directory_.string(), name, *place);
  writer_->write(name, value.raw(), value.bytes());
}

ShardedSafetensorsWriter::Shards ModelWriter::write(const TensorValues& values) {
  std::vector<float> staged;
  std::vector<bfloat16> rounded;
  for (const auto& [p, tensor] : mine_) {
    float* of_tensor = const_cast<float*>(values(*p, tensor, staged));
    if (dtype_of(*p) == DType::kF32) {
      write_finite(tensor.name, as_tensor(of_tensor, DType::kF32, tensor.shape));
      continue;
    }
    rounded.resize(tensor.numel());
    convert_elements(of_tensor, DType::kF32, rounded.data(), DType::kBF16, tensor.numel());
    write_finite(tensor.name, as_tensor(rounded.data(), DType::kBF16, tensor.shape));
  }
  if (first_ && !carried_.empty()) write_carried(*writer_, carried_, carried_from_);
  return writer_ ? writer_->finish_shards() : ShardedSafetensorsWriter::Shards();
}

void ModelWriter::write_index(const ShardedSafetensorsWriter::Shards& all) const {
  ShardedSafetensorsWriter::write_index(directory_, all);
  ModelConfig config = model_.config();
  if (!model_.options().next_token_prediction && carried_.empty()) config.num_nextn_predict_layers = 0;
  write_file(directory_ / "config.json", to_json(config, dtype_ == DType::kF32 ? "float32" : "bfloat16"));
}

ShardedSafetensorsWriter::Shards gather_shards(ShardedSafetensorsWriter::Shards mine, Communicator* ranks) {
  if (ranks == nullptr || ranks->size() == 1) return mine;
  nlohmann::json json = {
      {"file_of", mine.file_of}, {"bytes", mine.tensor_bytes}, {"digests", nlohmann::json::object()}};
  for (const auto& [file, digest] : mine.digests) json["digests"][file] = {digest.bytes, digest.digest};
  ShardedSafetensorsWriter::Shards all;
  for (const std::string& text : gather_texts(*ranks, json.dump())) {
    const nlohmann::json of_rank = nlohmann::json::parse(text);
    all.file_of.merge(of_rank.at("file_of").get<std::map<std::string, std::string>>());
    all.tensor_bytes += of_rank.at("bytes").get<uint64_t>();
    for (const auto& [file, digest] : of_rank.at("digests").items()) {
      all.digests[file] = {digest.at(0).get<uint64_t>(), digest.at(1).get<std::string>()};
    }
  }
  return all;
}

std::map<std::string, FileDigest> save_model(const std::filesystem::path& directory, const DeepseekModel& model,
                                             DType dtype, const ModelDirectory* carried_from,
                                             const WritingRanks& ranks) {
  ModelWriter writer(directory, model, dtype, carried_from, ranks);
  const ParameterList& list = model.parameters();
  const ShardedSafetensorsWriter::Shards mine =
      writer.write([&](const auto& p, const auto& tensor, auto& staged) { return list.values(p, tensor, staged); });
  const ShardedSafetensorsWriter::Shards all = gather_shards(mine, ranks.host);
  if (ranks.host == nullptr || ranks.host->rank() == 0) writer.write_index(all);
  return all.digests;
}

}  // namespace deeptitan

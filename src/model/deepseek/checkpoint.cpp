#include "model/deepseek/checkpoint.h"

#include <algorithm>
#include <charconv>
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
      directory.path().string(), name, found, where, dtype_word(value.dtype()));
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

// What all ranks have written.
ShardedSafetensorsWriter::Shards gather_shards(const ShardedSafetensorsWriter::Shards& mine, Communicator& ranks) {
  nlohmann::json json = {
      {"file_of", mine.file_of}, {"bytes", mine.tensor_bytes}, {"digests", nlohmann::json::object()}};
  for (const auto& [file, digest] : mine.digests) json["digests"][file] = {digest.bytes, digest.digest};
  ShardedSafetensorsWriter::Shards all;
  for (const std::string& text : gather_texts(ranks, json.dump())) {
    const nlohmann::json of_rank = nlohmann::json::parse(text);
    all.file_of.merge(of_rank.at("file_of").get<std::map<std::string, std::string>>());
    all.tensor_bytes += of_rank.at("bytes").get<uint64_t>();
    for (const auto& [file, digest] : of_rank.at("digests").items()) {
      all.digests[file] = {digest.at(0).get<uint64_t>(), digest.at(1).get<std::string>()};
    }
  }
  return all;
}

// The tensors of a directory, which may lie in mapped files as products want to read them.
class DirectoryValues final : public ParameterSource {
 public:
  explicit DirectoryValues(std::shared_ptr<const ModelDirectory> directory) : directory_(std::move(directory)) {}

  void read(const Parameter& /*parameter*/, const FileTensor& tensor, DType dtype, void* values) const override {
    read_tensor(*directory_, tensor.name, tensor.shape, dtype, values);
    check_finite(*directory_, tensor.name, as_tensor(values, dtype, tensor.shape));
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

std::map<std::string, FileDigest> save_model(const std::filesystem::path& directory, const DeepseekModel& model,
                                             DType dtype, const ModelDirectory* carried_from,
                                             const WritingRanks& ranks) {
  DT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "a model is saved as fp32 or bf16, not {}",
           dtype_word(dtype));
  const bool shared = ranks.host != nullptr && ranks.host->size() > 1;
  const bool first = !shared || ranks.host->rank() == 0;
  std::vector<TensorDeclaration> declarations;
  const auto dtype_of = [&](const Parameter& p) { return p.spec.trained ? dtype : DType::kF32; };
  const auto for_each_of_mine = [&](const auto& body) {
    for (const Parameter& p : model.parameters().all()) {
      for (const FileTensor& tensor : p.file_tensors()) {
        if (!shared || ranks.writes(p, tensor)) body(p, tensor);
      }
    }
  };
  for_each_of_mine([&](const Parameter& p, const FileTensor& tensor) {
    declarations.push_back({tensor.name, dtype_of(p), tensor.shape});
  });
  // The same on all ranks; the first writes them.
  const std::vector<TensorDeclaration> carried = carried_tensors(carried_from, model, dtype);
  if (first) declarations.insert(declarations.end(), carried.begin(), carried.end());
  std::optional<ShardedSafetensorsWriter> writer;
  if (!shared || !declarations.empty()) writer.emplace(directory, declarations, kMaxShardBytes);
  if (shared) number_shards(writer ? &*writer : nullptr, *ranks.host);
  std::vector<float> staged;
  std::vector<bfloat16> rounded;
  for_each_of_mine([&](const Parameter& p, const FileTensor& tensor) {
    const float* values = model.parameters().values(p, tensor, staged);
    if (dtype_of(p) == DType::kF32) {
      writer->write(tensor.name, values, tensor.numel() * sizeof(float));
      return;
    }
    rounded.resize(tensor.numel());
    convert_elements(values, DType::kF32, rounded.data(), DType::kBF16, tensor.numel());
    writer->write(tensor.name, rounded.data(), rounded.size() * sizeof(bfloat16));
  });
  if (first && !carried.empty()) write_carried(*writer, carried, carried_from);
  const ShardedSafetensorsWriter::Shards mine = writer ? writer->finish_shards() : ShardedSafetensorsWriter::Shards();
  const ShardedSafetensorsWriter::Shards all = shared ? gather_shards(mine, *ranks.host) : mine;
  if (first) {
    ShardedSafetensorsWriter::write_index(directory, all);
    ModelConfig config = model.config();
    if (!model.options().next_token_prediction && carried.empty()) config.num_nextn_predict_layers = 0;
    write_file(directory / "config.json", to_json(config, dtype == DType::kF32 ? "float32" : "bfloat16"));
  }
  return all.digests;
}

}  // namespace deeptitan

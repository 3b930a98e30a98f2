#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors_writer.h"
#include "comm/communicator.h"
#include "core/digest.h"
#include "core/execution_context.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

/// Fills a model from a Hugging Face directory (any float dtype, or fp8 with block scales): what lies in memory as
/// layers or the optimizer want it, and the prepared weights; where there is no master these are made straight from the
/// mapped files, so that no second copy of the weights exists. A model with frozen parameters keeps the directory:
/// their values are read again when it is saved. Tensors of next-token-prediction modules that the model does not have
/// are left unread. Throws Error that names the first missing, misshaped or unknown tensor and says how many there are,
/// and the first with a value that is not finite.
void load_weights(ExecutionContext& ctx, std::shared_ptr<const ModelDirectory> directory, DeepseekModel& model);

/// Who writes a model's files, where its ranks write them together: all call save_model, and each writes shards of its
/// own. By default one writes all.
struct WritingRanks {
  Communicator* host = nullptr;  // the ranks, for what lies in the host's memory
  /// Whether this rank writes a tensor: of each, one rank does.
  std::function<bool(const Parameter&, const FileTensor&)> writes = nullptr;
};

/// Where a file tensor's values are: as ParameterList::values.
using TensorValues = std::function<const float*(const Parameter&, const FileTensor&, std::vector<float>& staged)>;

/// Writes a directory as save_model does, with what ranks tell each other apart from what takes long, which may happen
/// on another thread.
class ModelWriter {
 public:
  /// Declares this rank's tensors and gives its shards their numbers among those of all: ranks make it together. Writes
  /// nothing. What is given stays while it lives.
  ModelWriter(std::filesystem::path directory, const DeepseekModel& model, DType dtype,
              const ModelDirectory* carried_from, const WritingRanks& ranks);

  /// Writes this rank's shards; asks no other rank. Once. Throws Error at the first value that is not finite.
  ShardedSafetensorsWriter::Shards write(const TensorValues& values);
  /// The first rank's: the index of all ranks' shards, and config.json.
  void write_index(const ShardedSafetensorsWriter::Shards& all) const;

 private:
  void write_finite(const std::string& name, const Tensor& value);
  DType dtype_of(const Parameter& parameter) const { return parameter.spec.trained ? dtype_ : DType::kF32; }

  std::filesystem::path directory_;
  const DeepseekModel& model_;
  DType dtype_;
  const ModelDirectory* carried_from_;
  bool first_;
  std::vector<std::pair<const Parameter*, FileTensor>> mine_;
  std::vector<TensorDeclaration> carried_;  // the same on all ranks; the first writes them
  std::optional<ShardedSafetensorsWriter> writer_;
};

/// What all ranks have written (nullptr: this one alone), put together; they call it together.
ShardedSafetensorsWriter::Shards gather_shards(ShardedSafetensorsWriter::Shards mine, Communicator* ranks);

/// Writes model.safetensors (in shards where large) and config.json into an existing directory. Matrices and norms are
/// rounded to `dtype` (f32 or bf16); buffers such as the router's bias stay fp32. A model without the
/// next-token-prediction modules that its config announces carries those of `carried_from` along, and announces none
/// where that has none. Returns the digests of the files of weights by name, of all ranks.
std::map<std::string, FileDigest> save_model(const std::filesystem::path& directory, const DeepseekModel& model,
                                             DType dtype, const ModelDirectory* carried_from = nullptr,
                                             const WritingRanks& ranks = {});

/// Whether the directory has weights for the next-token-prediction modules that its config announces.
bool has_next_token_prediction(const ModelDirectory& directory, const ModelConfig& config);

}  // namespace deeptitan

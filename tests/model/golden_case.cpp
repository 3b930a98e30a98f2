#include "model/golden_case.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "checkpoint/model_directory.h"
#include "config/model_config_json.h"
#include "core/device_choice.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"
#include "support/data_folder.h"
#include "train/training_engine.h"

namespace deeptitan::testing {
namespace {

const std::filesystem::path kFolder = data_folder() / "golden" / "model";

template <typename T>
std::vector<T> elements(const SafetensorsFile& file, std::string_view name, DType dtype) {
  const TensorEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != dtype) throw std::runtime_error("no such tensor: " + std::string(name));
  std::vector<T> values(entry->bytes / sizeof(T));
  std::memcpy(values.data(), entry->data, entry->bytes);
  return values;
}

// The experts of each layer, from the fixture or empty, and the record that points at them.
struct Routes {
  std::map<int64_t, std::vector<int32_t>> index;
  RouteRecord record;

  Routes(const GoldenCase& golden, const DeepseekModel& model, bool replay) {
    const auto tokens = static_cast<int64_t>(golden.tokens().size());
    record.replay = replay;
    record.expert_index.resize(model.total_layers());
    for (const auto& [layer, experts] : model.expert_layers()) {
      const int64_t top_k = experts->router().top_k;
      std::vector<int32_t>& chosen = index[layer];
      chosen = replay ? golden.integers("routes/" + std::to_string(layer)) : std::vector<int32_t>(tokens * top_k);
      record.expert_index[layer] = Tensor(chosen.data(), DType::kI32, {tokens, top_k});
    }
  }
};

}  // namespace

GoldenCase::GoldenCase(const std::string& name)
    : name_(name),
      folder_(kFolder / name),
      config_(load_model_config(folder_)),
      expected_(folder_ / "expected.safetensors") {}

std::vector<std::string> GoldenCase::names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (std::filesystem::exists(entry.path() / "expected.safetensors"))
      names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<float> GoldenCase::floats(std::string_view tensor) const {
  return elements<float>(expected_, tensor, DType::kF32);
}

std::vector<int32_t> GoldenCase::integers(std::string_view tensor) const {
  return elements<int32_t>(expected_, tensor, DType::kI32);
}

std::vector<float> inference_logits(const GoldenCase& golden, DType compute, std::span<const int32_t> tokens,
                                    bool replay, Device device) {
  const auto length = static_cast<int64_t>(tokens.size());
  ModelOptions options;
  options.training = false;
  options.compute = compute;
  options.max_positions = length;
  DeepseekModel model(golden.config(), options);
  Routes routes(golden, model, replay);
  use_device(device);
  Arena weights("weights", device);
  Arena activations("activations", device);
  Arena workspace("workspace", device);
  ExecutionContext ctx;
  ctx.device = device;
  ctx.compute = Stream(device);
  ctx.workspace = &workspace;
  BatchLayout layout;
  layout.capacity = {.tokens = length, .sequences = 1, .max_query = length, .max_visible = length, .pages = 1};
  std::vector<LayerCache> cache;
  layout.longest_position = length;
  Tensor hidden, logits;
  const auto take_memory = [&] {
    model.parameters().plan_values(weights);
    model.parameters().plan_prepared(weights);
    model.plan_constants(weights);
    layout.token_ids = activations.take(DType::kI32, {length});
    layout.positions = activations.take(DType::kI32, {length});
    layout.query_offset = activations.take(DType::kI32, {2});
    layout.cached_length = activations.take(DType::kI32, {1});
    layout.page_table = activations.take(DType::kI32, {1, 1});
    layout.cache_slot = activations.take(DType::kI32, {length});
    cache.clear();
    for (const std::vector<CacheStream>& streams : model.cache_streams()) {
      cache.emplace_back();
      for (const CacheStream& s : streams) cache.back().push_back(activations.take(compute, {1, length, s.width}));
    }
    hidden = activations.take(compute, {length, golden.config().hidden_size});
    logits = activations.take(DType::kF32, {length, golden.config().vocab_size});
  };
  const auto run = [&] {
    ForwardContext forward{.batch = layout, .cache = cache};
    if (replay && !ctx.planning) forward.routes = &routes.record;  // the record lies with the host
    model.forward_hidden(ctx, forward, hidden);
    model.head().logits(ctx, logits, hidden);
  };
  ctx.planning = true;
  take_memory();
  run();
  ctx.planning = false;
  for (Arena* arena : {&weights, &activations, &workspace}) arena->allocate();
  take_memory();
  load_weights(ctx, std::make_shared<ModelDirectory>(golden.folder()), model);
  std::vector<int32_t> positions(length);
  std::iota(positions.begin(), positions.end(), 0);
  upload<int32_t>(layout.token_ids, tokens);
  upload<int32_t>(layout.positions, positions);
  upload<int32_t>(layout.cache_slot, positions);
  upload<int32_t>(layout.query_offset, std::vector<int32_t>{0, static_cast<int32_t>(length)});
  clear_tensor(layout.cached_length);
  clear_tensor(layout.page_table);
  run();
  return download<float>(logits);
}

TrainingOutcome train_once(const GoldenCase& golden, DType compute, bool replay, Device device,
                           Recomputation recomputation) {
  const std::vector<int32_t> tokens = golden.tokens();
  const auto length = static_cast<int64_t>(tokens.size());
  TrainingEngineOptions options;
  options.device = device;
  options.compute = compute;
  options.recomputation = recomputation;
  options.seq_len = length;
  options.sequences = 1;
  options.auxiliary_weight = golden.balance_weight();
  options.mtp_weight = golden.next_token_prediction_weight();
  TrainingEngine engine(golden.config(), options);
  engine.allocate();
  engine.load(std::make_shared<ModelDirectory>(golden.folder()));
  PackedBatch batch;
  batch.sequences = 1;
  batch.sequence_length = length;
  batch.tokens = tokens;
  batch.targets.assign(tokens.begin() + 1, tokens.end());
  batch.targets.push_back(-1);
  batch.positions.resize(length);
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.document_offsets = {0, static_cast<int32_t>(length)};
  batch.target_count = length - 1;

  Routes routes(golden, engine.model(), replay);
  engine.set_routes(&routes.record);
  engine.begin_step(1, 0.0, batch.target_count, 1);
  engine.add_microbatch(batch);
  TrainingOutcome outcome;
  for (const Parameter& p : engine.model().parameters().all()) {
    if (!p.gradient.defined()) continue;
    // The reference's tensors are stacked over experts, each of a name of its own.
    const std::vector<float> all = download<float>(p.gradient);
    for (const FileTensor& tensor : p.file_tensors()) {
      const float* first = all.data() + tensor.offset;
      std::vector<float>& gradient = outcome.gradients[tensor.stream];
      gradient.insert(gradient.end(), first, first + tensor.numel());
    }
  }
  const StepResult result = engine.finish_step();
  outcome.loss = result.loss;
  outcome.mtp_loss = result.mtp_loss;
  outcome.expert_index = routes.index;
  return outcome;
}

}  // namespace deeptitan::testing

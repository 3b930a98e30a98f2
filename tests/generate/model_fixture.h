#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/random.h"
#include "generate/inference_engine.h"
#include "model/deepseek/deepseek_model.h"
#include "support/tiny_model.h"
#include "tokenizer/bpe_trainer.h"

namespace deeptitan::testing {

/// A tokenizer of 300 entries: 5 special tokens, 256 bytes and merges of a few English words.
inline Tokenizer tiny_tokenizer() {
  const std::string_view texts[] = {
      "the light and the darkness, the day and the night; the earth and the heaven. "
      "And God saw the light, that it was good: and God divided the light from the darkness."};
  return train_bpe(texts, {.vocab_size = 300, .min_frequency = 1});
}

/// tiny_v3 or tiny_v2 with room for the tokenizer, and six ids more than it has.
inline ModelConfig with_tokenizer(ModelConfig config) {
  config.vocab_size = 306;
  config.eos_token_ids = {1};
  return config;
}

/// A new model with its values, as training has it.
struct DrawnModel {
  explicit DrawnModel(const ModelConfig& config, uint64_t seed = 3)
      : values("values"), model(config, {.max_positions = config.max_position_embeddings}) {
    model.parameters().plan_values(values);
    values.allocate();
    model.parameters().plan_values(values);
    ExecutionContext ctx;
    model.parameters().load(ctx, std::make_shared<DrawnValues>(seed, config.initializer_range));
  }
  Arena values;
  DeepseekModel model;
};

inline std::unique_ptr<InferenceEngine> drawn_engine(const ModelConfig& config, const InferenceOptions& options = {}) {
  auto engine = std::make_unique<InferenceEngine>(config, options);
  engine->allocate();
  engine->initialize(3);
  return engine;
}

inline std::vector<int32_t> random_tokens(const ModelConfig& config, int64_t count, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random_bits(random_key("test/tokens", seed), i) % config.vocab_size));
  }
  return tokens;
}

}  // namespace deeptitan::testing

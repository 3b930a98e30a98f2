#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generate/generation.h"
#include "generate/inference_engine.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// "12 tokens of prompt in 0.10 s (120 tok/s), 30 new in 1.00 s (29 tok/s)": one line of statistics.
std::string describe_speed(const Generation& generation);

/// Gets text out of an engine, one at a time; many at once are a BatchGenerator's.
class TextGenerator {
 public:
  /// Called with each piece of text as soon as it is certain.
  using OnText = std::function<void(std::string_view)>;

  /// `end_ids` sorted: see GenerationConfig.
  TextGenerator(InferenceEngine& engine, Tokenizer tokenizer, std::vector<int32_t> end_ids);

  /// Continues `prompt`. What the engine's cache shares with it is not run again. Throws a usage error that says both
  /// lengths where the prompt leaves no room in the context.
  Generation generate(std::span<const int32_t> prompt, const GenerationOptions& options, const OnText& on_text);

 private:
  InferenceEngine& engine_;
  Tokenizer tokenizer_;
  std::vector<int32_t> end_ids_;
  std::vector<bool> decodable_;
};

}  // namespace deeptitan

#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "generate/generation.h"
#include "generate/model_runner.h"

namespace deeptitan {

/// One text to be continued.
struct GenerationRequest {
  std::vector<int32_t> prompt;
  GenerationOptions options;
};

/// Continues many texts at once. Each gets the tokens that TextGenerator would give it on an engine of the same
/// prefill_chunk and an empty cache, whatever it runs beside. A prompt that several requests have (samples with seeds
/// of their own) is run once.
class BatchGenerator {
 public:
  /// Called with the request's place and each piece of its text as soon as it is certain.
  using OnText = std::function<void(size_t request, std::string_view text)>;
  /// Called when a request is done; requests end in any order.
  using OnDone = std::function<void(size_t request, const Generation& generation)>;

  /// `end_ids` sorted: see GenerationConfig. The runner's cache must be empty.
  BatchGenerator(ModelRunner& runner, Tokenizer tokenizer, std::vector<int32_t> end_ids);

  /// The results, in the order of the requests. Throws a usage error that names the first request that cannot be run,
  /// before any is.
  std::vector<Generation> generate(std::span<const GenerationRequest> requests, const OnDone& on_done = {},
                                   const OnText& on_text = {});

 private:
  class Run;
  ModelRunner& runner_;
  Tokenizer tokenizer_;
  std::vector<int32_t> end_ids_;
  std::vector<bool> decodable_;
};

}  // namespace deeptitan

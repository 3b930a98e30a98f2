#pragma once

#include <string>

#include "generate/model_files.h"
#include "generate/text_generator.h"

namespace deeptitan {

/// Answers requests that come as JSON, one object each: what evaluation harnesses ask of a model. Texts may be given as
/// lists of token ids throughout; `id` of a request stands in its answer.
///   {"context": TEXT, "continuation": TEXT}    {"logprob", "is_greedy", "tokens"}; see encode_pair. What the context
///                                              shares with what was run before is not run again.
///   {"text": TEXT}                             {"token_ids", "logprobs", "logprob", "loss", "perplexity",
///                                              "bits_per_byte"}; with "prefix_token": true the first token counts too,
///                                              behind bos (or eos, where there is no bos)
///   {"prompt": TEXT, "stop": [TEXT], ...}      {"text", "tokens", "stop_reason"}: greedy, unless it has a temperature
///   of
///                                              its own (fields as in generate --input)
///   {"encode": TEXT, "add_special_tokens": true}, {"decode": IDS}, {"render": MESSAGES, "add_generation_prompt":
///   true},
///   {"info": true}                             what the tokenizer, the chat template and the engine say
class EvalRequests {
 public:
  /// All of these must outlive it.
  EvalRequests(const ModelFiles& files, InferenceEngine& engine);

  /// The answer to one request, a JSON object on one line. Throws a usage error that begins with `where` for what is no
  /// such request.
  std::string answer(const std::string& line, const std::string& where);

 private:
  const ModelFiles& files_;
  InferenceEngine& engine_;
  TextGenerator generator_;
};

}  // namespace deeptitan

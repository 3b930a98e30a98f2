#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "generate/batch_generator.h"
#include "generate/model_files.h"
#include "generate/text_generator.h"
#include "generate/token_pair.h"
#include "generate_request.h"

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
  /// A request, and where it stands.
  struct Line {
    std::string text;
    std::string where;
  };
  using Give = std::function<void(const std::string& answer)>;

  /// Both must outlive it. The engine's options are as scoring_options says.
  EvalRequests(const ModelFiles& files, InferenceEngine& engine);

  /// Gives the answer to each request, a JSON object on one line, in order. Continuations that stand one after another
  /// are scored in one, and so are texts generated. Throws a usage error that begins with `where` for what is no such
  /// request; what stands before it is answered then.
  void answer(std::span<const Line> lines, const Give& give);

 private:
  using Json = nlohmann::ordered_json;

  void add(const Line& line, const Give& give);
  Json answer_alone(const Json& request, std::string_view asked, const std::string& where);
  TokenPair read_pair(const Json& request, const std::string& where) const;
  GenerateRequest read_prompt(const Json& request, const std::string& where) const;
  void flush(const Give& give);

  const ModelFiles& files_;
  InferenceEngine& engine_;
  TextGenerator generator_;
  BatchGenerator batch_generator_;
  // What waits to be run in one: of one kind at a time.
  std::vector<Json> answers_;
  std::vector<TokenPair> pairs_;
  std::vector<GenerationRequest> prompts_;
};

}  // namespace deeptitan

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "generate/text_generator.h"
#include "jinja/value.h"

namespace deeptitan {

/// One thing to generate.
struct GenerateRequest {
  nlohmann::ordered_json id;  // what the answer is called by; null where it needs no name
  int64_t sample = 0;         // of several for one prompt, counted from 0
  std::vector<int32_t> prompt;
  GenerationOptions options;
  std::string where = {};  // "file:line" of one that was read
  std::string error = {};  // why it cannot be answered; the rest then counts for nothing
};

/// How a line of --input becomes tokens.
struct PromptEncoders {
  std::function<std::vector<int32_t>(const std::string& prompt)> text;
  std::function<std::vector<int32_t>(const jinja::Value& messages)> messages;
};

/// One request, as parse_requests describes it; the prompt may be a list of token ids too. `line` is its id where it
/// has none of its own.
GenerateRequest parse_request(const nlohmann::ordered_json& json, const std::string& where, int64_t line,
                              const GenerationOptions& defaults, const PromptEncoders& encoders);

/// "end_of_text", "stop_string", "max_new_tokens", "context_full" or "interrupted".
std::string_view stop_reason_name(StopReason reason);

/// The requests of a file of JSON lines, each of which holds `prompt` (a text) or `messages` (a list), and may hold
/// `id` (any JSON value; the line's number where there is none) and options of its own in place of `defaults`:
/// max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, and stop (a text or a list of them).
/// For anything else the request's error names file and line. Throws a usage error where there are no lines.
std::vector<GenerateRequest> parse_requests(std::string_view text, const std::string& path,
                                            const GenerationOptions& defaults, const PromptEncoders& encoders);

/// What a request gave, as one JSON object: id and sample (where the request has a name), text, tokens, logprobs
/// (natural logarithm, of the model itself: before temperature and filters), stop_reason, and how many tokens of the
/// prompt were run in how long. Of a request that cannot be answered: id and error.
std::string generation_as_json(const GenerateRequest& request, const Generation& generation);

}  // namespace deeptitan

#include "generate_request.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/utf8.h"
#include "eval_json.h"
#include "generate/sampler.h"
#include "message_list.h"

namespace deeptitan {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
void read_number(const Json& json, const std::string& where, std::string_view name, T& value) {
  const bool fits = std::is_same_v<T, double> ? json.is_number() : json.is_number_integer();
  const bool negative = std::is_unsigned_v<T> && fits && !json.is_number_unsigned();
  DT_CHECK_USAGE(fits && !negative, "{}: {} is {}; expected a {}number", where, name, shown_json(json),
                 std::is_same_v<T, double> ? "" : "whole ");
  value = json.get<T>();
}

std::vector<std::string> read_stop(const Json& json, const std::string& where) {
  std::vector<std::string> strings;
  for (const Json& text : json.is_string() ? Json::array({json}) : json) {
    DT_CHECK_USAGE(
        json.is_structured() == json.is_array() && text.is_string() && !text.get_ref<const std::string&>().empty(),
        "{}: stop is {}; expected a text or a list of texts, none of them empty", where, shown_json(json));
    strings.push_back(text.get<std::string>());
  }
  return strings;
}

}  // namespace

GenerateRequest parse_request(const Json& json, const std::string& where, int64_t line,
                              const GenerationOptions& defaults, const PromptEncoders& encoders) {
  static const std::vector<std::string> kFields = {"id",    "prompt", "messages", "max_new_tokens",     "temperature",
                                                   "top_k", "top_p",  "min_p",    "repetition_penalty", "seed",
                                                   "stop"};
  DT_CHECK_USAGE(json.is_object(), "{}: expected a JSON object with prompt or messages", where);
  DT_CHECK_USAGE(json.contains("prompt") != json.contains("messages"),
                 "{}: expected one of prompt and messages, found {}", where,
                 json.contains("prompt") ? "both" : "neither");
  GenerateRequest request{.id = line, .prompt = {}, .options = defaults, .where = where};
  GenerationOptions& options = request.options;
  for (const auto& [name, value] : json.items()) {
    if (name == "id") {
      if (!value.is_null()) request.id = value;
    } else if (name == "prompt") {
      DT_CHECK_USAGE(value.is_string() || value.is_array(), "{}: prompt is {}; expected a text", where,
                     shown_json(value));
      request.prompt =
          value.is_string() ? encoders.text(value.get<std::string>()) : parse_token_ids(value, where + ": prompt");
      DT_CHECK_USAGE(!request.prompt.empty(), "{}: prompt is an empty list of token ids; expected at least one", where);
    } else if (name == "messages" && encoders.messages) {
      request.prompt = encoders.messages(parse_message_list(write_json(value), where));
    } else if (name == "max_new_tokens") {
      read_number(value, where, name, options.max_new_tokens);
      DT_CHECK_USAGE(options.max_new_tokens > 0, "{}: max_new_tokens = {}; expected at least 1", where,
                     options.max_new_tokens);
    } else if (name == "temperature") {
      read_number(value, where, name, options.sampling.temperature);
    } else if (name == "top_k") {
      read_number(value, where, name, options.sampling.top_k);
    } else if (name == "top_p") {
      read_number(value, where, name, options.sampling.top_p);
    } else if (name == "min_p") {
      read_number(value, where, name, options.sampling.min_p);
    } else if (name == "repetition_penalty") {
      read_number(value, where, name, options.sampling.repetition_penalty);
    } else if (name == "seed") {
      read_number(value, where, name, options.sampling.seed);
    } else if (name == "stop") {
      options.stop = read_stop(value, where);
    } else {
      fail_usage("{}: unknown field '{}'{} (fields: {}; what is to come out again goes into id)", where, name,
                 did_you_mean(name, kFields), fmt::join(kFields, ", "));
    }
  }
  try {
    check_sampling_options(options.sampling);
  } catch (const Error& error) {
    fail_usage("{}: {}", where, error.what());
  }
  return request;
}

std::string_view stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfText:
      return "end_of_text";
    case StopReason::kStopString:
      return "stop_string";
    case StopReason::kMaxNewTokens:
      return "max_new_tokens";
    case StopReason::kContextFull:
      return "context_full";
    case StopReason::kInterrupted:
      return "interrupted";
  }
  return "";
}

std::vector<GenerateRequest> parse_requests(std::string_view text, const std::string& path,
                                            const GenerationOptions& defaults, const PromptEncoders& encoders) {
  std::vector<GenerateRequest> requests;
  int64_t number = 0;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", path, number);
    Json json;
    try {
      json = read_json<Json>(utf8_sanitize(line).text, {.where = where, .kind = ErrorKind::kUsage});
      requests.push_back(parse_request(json, where, number, defaults, encoders));
    } catch (const Error& error) {
      const bool named = json.is_object() && json.contains("id") && !json["id"].is_null();
      requests.push_back({.id = named ? json["id"] : Json(number), .prompt = {}, .options = {}, .error = error.what()});
    }
  }
  DT_CHECK_USAGE(!requests.empty(), "{}: holds no prompts; expected a JSON object with prompt or messages a line",
                 path);
  return requests;
}

std::string generation_as_json(const GenerateRequest& request, const Generation& generation) {
  Json json;
  if (!request.error.empty()) {
    json["id"] = request.id;
    json["error"] = request.error;
    return write_json(json);
  }
  if (!request.id.is_null()) {
    json["id"] = request.id;
    json["sample"] = request.sample;
  }
  json["text"] = generation.text;
  json["tokens"] = generation.tokens;
  json["logprobs"] = generation.logprobs;
  json["stop_reason"] = stop_reason_name(generation.reason);
  json["prompt_tokens"] = generation.prompt_tokens;
  json["cached_tokens"] = generation.cached_tokens;
  json["prefill_seconds"] = generation.prefill_seconds;
  json["decode_seconds"] = generation.decode_seconds;
  return write_json(json);
}

}  // namespace deeptitan

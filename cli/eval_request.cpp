#include "eval_request.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "chat/chat_template.h"
#include "config/nearest_name.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/utf8.h"
#include "eval_json.h"
#include "generate/evaluate.h"
#include "generate/token_pair.h"
#include "generate_request.h"
#include "message_list.h"

namespace deeptitan {
namespace {

using Json = nlohmann::ordered_json;

// The first field that says what a request asks for.
constexpr std::array<std::string_view, 7> kAsked = {"continuation", "text",   "prompt", "encode",
                                                    "decode",       "render", "info"};

void check_fields(const Json& request, const std::vector<std::string>& known, const std::string& where) {
  for (const auto& [name, value] : request.items()) {
    const bool is_known = name == "id" || std::find(known.begin(), known.end(), name) != known.end();
    DT_CHECK_USAGE(is_known, "{}: unknown field '{}'{} (fields beside id: {})", where, name, did_you_mean(name, known),
                   fmt::join(known, ", "));
  }
}

bool flag(const Json& request, const char* name, bool otherwise, const std::string& where) {
  const auto found = request.find(name);
  if (found == request.end()) return otherwise;
  DT_CHECK_USAGE(found->is_boolean(), "{}: {} is {}; expected true or false", where, name, shown_json(*found));
  return found->get<bool>();
}

std::string text_of(const Json& json, const char* name, const std::string& where) {
  DT_CHECK_USAGE(json.is_string(), "{}: {} is {}; expected a text", where, name, shown_json(json));
  return json.get<std::string>();
}

Json token_or_null(const std::optional<int32_t>& id) {
  return id ? Json(*id) : Json(nullptr);
}

}  // namespace

EvalRequests::EvalRequests(const ModelFiles& files, InferenceEngine& engine)
    : files_(files), engine_(engine), generator_(engine, files.tokenizer, files.generation.end_ids) {}

std::string EvalRequests::answer(const std::string& line, const std::string& where) {
  const Json request = read_json<Json>(utf8_sanitize(line).text, {.where = where, .kind = ErrorKind::kUsage});
  const Tokenizer& tokenizer = files_.tokenizer;
  const auto asked = std::find_if(kAsked.begin(), kAsked.end(), [&](std::string_view name) {
    return request.is_object() && request.contains(std::string(name));
  });
  DT_CHECK_USAGE(asked != kAsked.end(), "{}: expected a JSON object with one of {}", where, fmt::join(kAsked, ", "));
  Json json;
  if (request.contains("id")) json["id"] = request["id"];
  if (*asked == "continuation") {
    check_fields(request, {"context", "continuation"}, where);
    const TokenPair pair = parse_pair(tokenizer, request, where);
    const ContinuationScore score = score_continuation(engine_, pair.context, pair.continuation);
    json.update({{"logprob", score.logprob}, {"is_greedy", score.is_greedy}, {"tokens", score.tokens}});
  } else if (*asked == "text") {
    check_fields(request, {"text", "prefix_token"}, where);
    std::vector<int32_t> ids = request["text"].is_string()
                                   ? encode_prompt(tokenizer, request["text"].get<std::string>())
                                   : parse_token_ids(request["text"], where + ": text");
    if (flag(request, "prefix_token", false, where)) add_prefix_token(tokenizer, ids);
    json.update(score_as_json(score_text(engine_, tokenizer, std::move(ids))));
  } else if (*asked == "prompt") {
    GenerationOptions options;
    options.sampling.temperature = 0;
    const PromptEncoders encoders{.text = [&](const std::string& text) { return encode_prompt(tokenizer, text); },
                                  .messages = {}};
    const GenerateRequest asked_for = parse_request(request, where, 0, options, encoders);
    const Generation made = generator_.generate(asked_for.prompt, asked_for.options, [](std::string_view) {});
    json.update({{"text", made.text}, {"tokens", made.tokens}, {"stop_reason", stop_reason_name(made.reason)}});
  } else if (*asked == "encode") {
    check_fields(request, {"encode", "add_special_tokens"}, where);
    json["tokens"] = tokenizer.encode(text_of(request["encode"], "encode", where),
                                      {.add_special_tokens = flag(request, "add_special_tokens", true, where)});
  } else if (*asked == "decode") {
    check_fields(request, {"decode", "skip_special_tokens"}, where);
    json["text"] = tokenizer.decode(parse_token_ids(request["decode"], where + ": decode"),
                                    flag(request, "skip_special_tokens", true, where));
  } else if (*asked == "render") {
    check_fields(request, {"render", "add_generation_prompt"}, where);
    ChatRenderOptions options;
    options.add_generation_prompt = flag(request, "add_generation_prompt", true, where);
    json["text"] = ChatTemplate::load(files_.directory)
                       .render_messages(parse_message_list(write_json(request["render"]), where), options);
  } else {
    check_fields(request, {"info"}, where);
    json["context"] = engine_.context_length();
    json["vocab_size"] = files_.config.vocab_size;
    json["bos_token_id"] = token_or_null(tokenizer.bos_token_id());
    json["eos_token_id"] = token_or_null(tokenizer.eos_token_id());
    json["pad_token_id"] = token_or_null(tokenizer.pad_token_id());
  }
  return json.dump();
}

}  // namespace deeptitan

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
#include "generate/encode_prompt.h"
#include "generate/evaluate.h"
#include "generate/token_pair.h"
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
    : files_(files),
      engine_(engine),
      generator_(engine, files.tokenizer, files.generation.end_ids),
      batch_generator_(engine.runner(), files.tokenizer, files.generation.end_ids) {}

void EvalRequests::answer(std::span<const Line> lines, const Give& give) {
  for (const Line& line : lines) {
    try {
      add(line, give);
    } catch (const Error&) {
      flush(give);
      throw;
    }
  }
  flush(give);
}

void EvalRequests::add(const Line& line, const Give& give) {
  const std::string& where = line.where;
  const Json request = read_json<Json>(utf8_sanitize(line.text).text, {.where = where, .kind = ErrorKind::kUsage});
  const auto asked = std::find_if(kAsked.begin(), kAsked.end(), [&](std::string_view name) {
    return request.is_object() && request.contains(std::string(name));
  });
  DT_CHECK_USAGE(asked != kAsked.end(), "{}: expected a JSON object with one of {}", where, fmt::join(kAsked, ", "));
  Json answer = Json::object();
  if (request.contains("id")) answer["id"] = request["id"];
  if (*asked == "continuation") {
    TokenPair pair = read_pair(request, where);
    if (!prompts_.empty()) flush(give);
    pairs_.push_back(std::move(pair));
    answers_.push_back(std::move(answer));
  } else if (*asked == "prompt") {
    GenerateRequest prompt = read_prompt(request, where);
    if (!pairs_.empty()) flush(give);
    prompts_.push_back({std::move(prompt.prompt), std::move(prompt.options)});
    answers_.push_back(std::move(answer));
  } else {
    flush(give);
    answer.update(answer_alone(request, *asked, where));
    give(write_json(answer));
  }
}

TokenPair EvalRequests::read_pair(const Json& request, const std::string& where) const {
  check_fields(request, {"context", "continuation"}, where);
  TokenPair pair = parse_pair(files_.tokenizer, request, where);
  check_pair(pair, files_.config.vocab_size, engine_.context_length(), where);
  return pair;
}

GenerateRequest EvalRequests::read_prompt(const Json& request, const std::string& where) const {
  GenerationOptions options;
  options.sampling.temperature = 0;
  const PromptEncoders encoders{.text = [&](const std::string& text) { return encode_prompt(files_.tokenizer, text); },
                                .messages = {}};
  GenerateRequest prompt = parse_request(request, where, 0, options, encoders);
  check_token_ids(prompt.prompt, files_.config.vocab_size, where);
  try {
    check_generation(std::ssize(prompt.prompt), engine_.context_length(), prompt.options);
  } catch (const Error& error) {
    fail_usage("{}: {}", where, error.what());
  }
  return prompt;
}

void EvalRequests::flush(const Give& give) {
  const std::vector<Json> answers = std::exchange(answers_, {});
  const std::vector<TokenPair> pairs = std::exchange(pairs_, {});
  const std::vector<GenerationRequest> prompts = std::exchange(prompts_, {});
  if (answers.size() > 1) engine_.truncate(0);  // the runner's pages are for many
  if (!pairs.empty()) {
    const std::vector<ContinuationScore> scores =
        pairs.size() > 1 ? score_pairs(engine_.runner(), pairs)
                         : std::vector{score_continuation(engine_, pairs.front().context, pairs.front().continuation)};
    for (size_t i = 0; i < scores.size(); ++i) {
      Json answer = answers[i];
      answer.update({{"logprob", scores[i].logprob}, {"is_greedy", scores[i].is_greedy}, {"tokens", scores[i].tokens}});
      give(write_json(answer));
    }
  }
  if (!prompts.empty()) {
    const std::vector<Generation> texts =
        prompts.size() > 1 ? batch_generator_.generate(prompts)
                           : std::vector{generator_.generate(prompts.front().prompt, prompts.front().options,
                                                             [](std::string_view) {})};
    for (size_t i = 0; i < texts.size(); ++i) {
      Json answer = answers[i];
      answer.update(
          {{"text", texts[i].text}, {"tokens", texts[i].tokens}, {"stop_reason", stop_reason_name(texts[i].reason)}});
      give(write_json(answer));
    }
  }
}

EvalRequests::Json EvalRequests::answer_alone(const Json& request, std::string_view asked, const std::string& where) {
  const Tokenizer& tokenizer = files_.tokenizer;
  Json json = Json::object();
  if (asked == "text") {
    check_fields(request, {"text", "prefix_token"}, where);
    std::vector<int32_t> ids = request["text"].is_string()
                                   ? encode_prompt(tokenizer, request["text"].get<std::string>())
                                   : parse_token_ids(request["text"], where + ": text");
    check_token_ids(ids, files_.config.vocab_size, where);
    if (flag(request, "prefix_token", false, where)) add_prefix_token(tokenizer, ids);
    DT_CHECK_USAGE(ids.size() >= 2, "{}: a text of {} tokens has nothing to predict; expected at least 2", where,
                   ids.size());
    json.update(score_as_json(score_text(engine_, tokenizer, std::move(ids))));
  } else if (asked == "encode") {
    check_fields(request, {"encode", "add_special_tokens"}, where);
    json["tokens"] = tokenizer.encode(text_of(request["encode"], "encode", where),
                                      {.add_special_tokens = flag(request, "add_special_tokens", true, where)});
  } else if (asked == "decode") {
    check_fields(request, {"decode", "skip_special_tokens"}, where);
    json["text"] = tokenizer.decode(parse_token_ids(request["decode"], where + ": decode"),
                                    flag(request, "skip_special_tokens", true, where));
  } else if (asked == "render") {
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
  return json;
}

}  // namespace deeptitan

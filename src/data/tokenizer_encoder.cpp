#include "data/tokenizer_encoder.h"

#include <utility>

#include "core/error.h"
#include "data/content_hash.h"

namespace deeptitan {
namespace {

// Changes where the same template gives other tokens or another loss than before.
constexpr std::string_view kLossPlacement = "by origins";

}  // namespace

TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::shared_ptr<const ChatTemplate> chat_template,
                              const std::string& variables) {
  const std::optional<int32_t> eos = tokenizer.eos_token_id();
  DT_CHECK_USAGE(eos.has_value(),
                 "the tokenizer names no eos_token, which stands between two documents; add it to "
                 "tokenizer_config.json");
  TextEncoder encoder;
  encoder.encode = [tokenizer](std::string_view text, std::vector<int32_t>& tokens) {
    const std::vector<int32_t> found =
        tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = false});
    tokens.insert(tokens.end(), found.begin(), found.end());
  };
  encoder.token_bytes = [tokenizer](int32_t token) {
    return tokenizer.is_special_token(token) ? 0 : static_cast<int64_t>(tokenizer.token_bytes(token).size());
  };
  encoder.eos_token_id = *eos;
  ContentHash hash;
  hash.add(tokenizer.tokenizer_json());
  encoder.fingerprint = hash.hex();
  if (chat_template == nullptr) return encoder;
  const jinja::Value given = jinja::value_from_json(variables, "model.template_variables");
  try {
    chat_template->check_options({.variables = *given.as_dict()});
  } catch (const Error& error) {
    fail_usage("model.template_variables: {}", error.what());
  }
  encoder.encode_chat = [tokenizer, given, chat = std::move(chat_template)](const Conversation& conversation) {
    ChatRenderOptions options{.tools = conversation.tools, .variables = *given.as_dict()};
    for (const auto& [name, value] : conversation.variables.items()) options.variables.set(name, value);
    return encode_turns(tokenizer, chat->render_turns(conversation.messages, options));
  };
  // The template, and the special tokens that it writes.
  hash.add(tokenizer.chat_template_jinja());
  hash.add(tokenizer.tokenizer_config_json());
  hash.add(kLossPlacement);
  if (!given.as_dict()->items().empty()) hash.add(variables);
  encoder.chat_fingerprint = hash.hex();
  return encoder;
}

}  // namespace deeptitan

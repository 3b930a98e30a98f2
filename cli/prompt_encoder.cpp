#include "prompt_encoder.h"

#include <utility>

#include "generate/encode_prompt.h"

namespace deeptitan {

PromptEncoder::PromptEncoder(Options options, const Tokenizer& tokenizer)
    : options_(std::move(options)), tokenizer_(tokenizer), render_options_(options_.variables.options()) {}

std::vector<int32_t> PromptEncoder::text(const std::string& prompt) {
  if (!options_.as_question) return encode_prompt(tokenizer_, prompt);
  std::vector<ChatMessage> messages;
  if (!options_.system.empty()) messages.push_back({"system", options_.system});
  messages.push_back({"user", prompt});
  return encode_rendered(tokenizer_, chat_template().render(messages, render_options_));
}

std::vector<int32_t> PromptEncoder::messages(const jinja::Value& list) {
  return encode_rendered(tokenizer_, chat_template().render_messages(list, render_options_));
}

PromptEncoders PromptEncoder::encoders() {
  return {.text = [this](const std::string& prompt) { return text(prompt); },
          .messages = [this](const jinja::Value& list) { return messages(list); }};
}

const ChatTemplate& PromptEncoder::chat_template() {
  if (!template_) template_ = ChatTemplate::load(options_.model, options_.chat_template);
  return *template_;
}

}  // namespace deeptitan

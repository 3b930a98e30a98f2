#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "chat/chat_template.h"
#include "generate_request.h"
#include "jinja/value.h"
#include "template_options.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// How a model's prompts become tokens: texts as they are or as questions, and conversations, through its chat
/// template, which is read when it is first needed.
class PromptEncoder {
 public:
  struct Options {
    std::string model;          // the directory
    std::string chat_template;  // a file in place of the model's own; empty: that
    TemplateArguments variables;
    bool as_question = false;  // a text is one question of a conversation
    std::string system;        // message before it; empty: none
  };
  /// The tokenizer must outlive it. Throws as TemplateArguments::options.
  PromptEncoder(Options options, const Tokenizer& tokenizer);

  std::vector<int32_t> text(const std::string& prompt);
  std::vector<int32_t> messages(const jinja::Value& list);
  /// Both, for parse_request; it must outlive them.
  PromptEncoders encoders();

 private:
  const ChatTemplate& chat_template();

  Options options_;
  const Tokenizer& tokenizer_;
  ChatRenderOptions render_options_;
  std::optional<ChatTemplate> template_;
};

}  // namespace deeptitan

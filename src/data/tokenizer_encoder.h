#pragma once

#include <memory>
#include <string>

#include "chat/chat_template.h"
#include "data/text_encoder.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// A tokenizer as data/ uses it: what looks like a special token in a text is text, and nothing is put around it.
/// Conversations are rendered by `chat_template`, if there is one (see ChatTemplate::render_turns and encode_turns),
/// with `variables`, a JSON object, in the place of those that a conversation does not set itself. Throws a usage error
/// where the tokenizer names no end-of-text token.
TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::shared_ptr<const ChatTemplate> chat_template = nullptr,
                              const std::string& variables = "{}");

}  // namespace deeptitan

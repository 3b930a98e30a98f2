#pragma once

#include <memory>

#include "chat/chat_template.h"
#include "config/run_config.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// The files of the run's tokenizer, with model.chat_template in the place of their own template. Throws a usage error
/// for a template that is not there.
Tokenizer load_tokenizer(const RunConfig& config);

/// The template that conversations are rendered with; null where there are none. Throws a usage error where there are
/// conversations and no template.
std::shared_ptr<const ChatTemplate> load_chat_template(const RunConfig& config, const Tokenizer& tokenizer);

}  // namespace deeptitan

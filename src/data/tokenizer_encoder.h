#pragma once

#include "data/text_encoder.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// A tokenizer as data/ uses it: what looks like a special token in a text is text, and nothing is put around it.
/// Throws a usage error where the tokenizer names no end-of-text token.
TextEncoder make_text_encoder(const Tokenizer& tokenizer);

}  // namespace deeptitan
